from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.output import add_format_option, print_json, print_table, shorten
from app.services.registry_logins import Logins, server_of

_DESCRIPTION_WIDTH = 60


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=25, metavar="N", help="at most (default: %(default)s)")
    add_format_option(parser)
    parser.add_argument("term", metavar="[HOST/]TERM")


def run(context: Context, arguments: Namespace) -> int:
    server = server_of(arguments.term)
    found = context.client.search_images(arguments.term, arguments.limit, Logins().find(server).header(server))
    if arguments.format == "json":
        print_json(found)
        return 0
    rows = (
        (
            image["name"],
            shorten(image["description"], _DESCRIPTION_WIDTH),
            str(image["star_count"]),
            "[OK]" if image["is_official"] else "",
        )
        for image in found
    )
    print_table(("NAME", "DESCRIPTION", "STARS", "OFFICIAL"), rows)
    return 0

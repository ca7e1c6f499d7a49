from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.transfers import show_transfer
from app.services.images import with_default_tag
from app.services.registry_logins import Logins, server_of


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="print its name at the end only")
    parser.add_argument("name", metavar="NAME[:TAG]")


def run(context: Context, arguments: Namespace) -> int:
    server = server_of(arguments.name)
    authorization = Logins().find(server).header(server)
    repository, _, tag = with_default_tag(arguments.name).rpartition(":")
    with context.client.push_image(repository, "" if arguments.all_tags else tag, authorization) as messages:
        show_transfer(f"Pushing {repository}", messages, arguments.quiet)
    if arguments.quiet:
        print(arguments.name)
    return 0

import time
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.output import add_format_option, human_duration, human_size, print_json, print_table, short_id, shorten

_COMMAND_WIDTH = 45


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--no-trunc", action="store_true", help="whole commands")
    add_format_option(parser)
    parser.add_argument("image", metavar="IMAGE")


def run(context: Context, arguments: Namespace) -> int:
    entries = context.client.image_history(arguments.image)
    if arguments.format == "json":
        print_json(entries)
        return 0
    rows = []
    for entry in entries:
        command = entry["CreatedBy"] if arguments.no_trunc else shorten(entry["CreatedBy"], _COMMAND_WIDTH)
        age = f"{human_duration(time.time() - entry['Created'])} ago" if entry["Created"] else ""
        rows.append((short_id(entry["Id"]), age, command, human_size(entry["Size"]), entry["Comment"]))
    print_table(("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"), rows)
    return 0

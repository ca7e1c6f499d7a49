from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.each import for_each


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="kill a running one first")
    parser.add_argument("-v", "--volumes", action="store_true", help="remove its anonymous volumes too")
    parser.add_argument("names", nargs="+", metavar="CONTAINER")


def run(context: Context, arguments: Namespace) -> int:
    def remove(name: str) -> None:
        context.client.remove_container(name, arguments.force, arguments.volumes)

    return for_each(arguments.names, remove)

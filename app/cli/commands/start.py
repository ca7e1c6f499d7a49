from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.each import for_each


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="CONTAINER")


def run(context: Context, arguments: Namespace) -> int:
    return for_each(arguments.names, context.client.start_container)

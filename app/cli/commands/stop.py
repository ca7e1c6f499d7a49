from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.each import for_each


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-t", "--time", type=int, metavar="SECONDS", help="how long to wait before killing it")
    parser.add_argument("names", nargs="+", metavar="CONTAINER")


def run(context: Context, arguments: Namespace) -> int:
    return for_each(arguments.names, lambda name: context.client.stop_container(name, arguments.time))

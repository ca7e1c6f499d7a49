from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.each import for_each


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="also with several names, or stopped containers")
    parser.add_argument("names", nargs="+", metavar="IMAGE")


def run(context: Context, arguments: Namespace) -> int:
    return for_each(arguments.names, lambda name: context.client.remove_image(name, arguments.force))

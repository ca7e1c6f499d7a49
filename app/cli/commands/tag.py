from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.services.images import with_default_tag


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("name", metavar="NAME[:TAG]", help="what it is called from now on, too")


def run(context: Context, arguments: Namespace) -> int:
    repository, _, tag = with_default_tag(arguments.name).rpartition(":")
    context.client.tag_image(arguments.image, repository, tag)
    return 0

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from app.cli.context import Context
from app.cli.output import add_format_option, human_duration, human_size, print_json, print_table, short_id
from app.engine.models import Image

_NONE = "<none>"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids")
    add_format_option(parser)


def run(context: Context, arguments: Namespace) -> int:
    images = context.client.images()
    whole = arguments.no_trunc
    if arguments.quiet:
        sys.stdout.writelines(f"{_id(image, whole)}\n" for image in images)
    elif arguments.format == "json":
        print_json(images)
    else:
        rows = (row for image in images for row in _rows(image, whole))
        print_table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"), rows)
    return 0


def _id(image: Image, whole: bool) -> str:
    return image.id if whole else short_id(image.id)


def _rows(image: Image, whole: bool) -> Iterator[tuple[str, ...]]:
    age = f"{human_duration(time.time() - image.created_at)} ago"
    for reference in image.tags or (f"{_NONE}:{_NONE}",):
        repository, _, tag = reference.rpartition(":")
        yield repository, tag, _id(image, whole), age, human_size(image.size_bytes)

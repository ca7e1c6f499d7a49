import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from app.cli.context import Context
from app.cli.output import add_format_option, human_duration, human_size, print_json, print_table, short_id
from app.cli.progress import StatusLine
from app.engine.models import Image
from app.services.registry_logins import Logins, server_of

_NONE = "<none>"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids")
    add_format_option(parser)
    actions = parser.add_subparsers(dest="action", metavar="verify", title="instead of listing them")
    verify = actions.add_parser("verify", help="look for damaged and missing content", allow_abbrev=False)
    verify.add_argument("--repair", action="store_true", help="mend it, from a registry where that is needed")
    verify.add_argument("names", nargs="*", metavar="IMAGE", help="all images if none is given")


def run(context: Context, arguments: Namespace) -> int:
    if arguments.action == "verify":
        return _verify(context, arguments.names, arguments.repair)
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


def _verify(context: Context, names: Sequence[str], repair: bool) -> int:
    """Fails when something stays damaged."""
    digests = {name for image in context.client.images() for name in image.digests} if repair else set()
    authorizations = Logins().headers_for({server_of(name) for name in digests})
    totals: dict[str, int] = {}
    line = StatusLine()
    with context.client.verify_images(names, repair, authorizations) as messages:
        for message in messages:
            found = message.get("aux")
            if found is None:
                detail = message.get("progressDetail") or {}
                share = f" {100 * detail['current'] // detail['total']}%" if detail.get("total") else ""
                line.show(f"{message.get('status', '')} {message.get('id', '')}{share}")
            elif "Problem" in found:
                line.clear()
                what = f"{found['Name']}: {found['Kind']} {short_id(found['Digest'])}: {found['Problem']}"
                sys.stdout.write(f"{what}: {'repaired' if found['Repaired'] else found['Remedy']}\n")
            else:
                totals = found
    line.clear()
    left = totals["Damaged"] - totals["Repaired"]
    sys.stdout.write(
        f"{totals['Images']} images, {totals['Parts']} blobs and layers ({human_size(totals['Bytes'])}): "
        f"{totals['Damaged']} damaged, {totals['Repaired']} repaired\n"
    )
    if left and not repair:
        sys.stderr.write("wherry images verify --repair mends what can be mended.\n")
    return 1 if left else 0

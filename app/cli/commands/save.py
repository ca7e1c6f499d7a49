import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from app.cli.context import Context
from app.cli.progress import ByteBar
from app.core.errors import UserError
from app.services.images import save_stream


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to (default: standard output)")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def run(context: Context, arguments: Namespace) -> int:
    path: Path | None = arguments.output
    if path is None:
        if sys.stdout.isatty():
            raise UserError("An archive is nothing for a terminal.", "Name a file with -o FILE, or pipe it on.")
        save_stream(context.client, arguments.images, sys.stdout.buffer)
        return 0
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with ByteBar("Saving", None) as bar, unfinished.open("wb") as out:
            save_stream(context.client, arguments.images, out, bar.advance)
        unfinished.replace(path)
    except OSError as failed:
        raise UserError(f"{path} cannot be written: {failed.strerror}.") from failed
    finally:
        unfinished.unlink(missing_ok=True)
    return 0

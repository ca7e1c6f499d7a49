import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from app.cli.context import Context
from app.cli.progress import ByteBar
from app.core.errors import UserError
from app.services.images import load_file, load_stream


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-i", "--input", type=Path, metavar="FILE", help="the archive (default: standard input)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(context: Context, arguments: Namespace) -> int:
    path: Path | None = arguments.input
    if path is None and sys.stdin.isatty():
        raise UserError("There is nothing to load.", "Name an archive with -i FILE, or pipe one in.")
    total_bytes = path.stat().st_size if path is not None and path.is_file() else None
    with ByteBar("Loading", total_bytes) as bar:
        on_bytes = None if arguments.quiet else bar.advance
        if path is None:
            loaded = load_stream(context.client, sys.stdin.buffer, on_bytes)
        else:
            loaded = load_file(context.client, path, on_bytes)
    sys.stdout.writelines(f"Loaded image: {reference}\n" for reference in loaded)
    return 0

import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.output import human_size


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("prune",), help="prune: empty the build cache")
    parser.add_argument("-a", "--all", action="store_true", help="the caches of RUN --mount too")
    parser.add_argument("--keep-storage", type=int, default=0, metavar="BYTES", help="what may stay")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def run(context: Context, arguments: Namespace) -> int:
    if not arguments.force and sys.stdin.isatty():
        sys.stderr.write("This empties the build cache. Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 1
    removed, freed_bytes = context.client.prune_builds(arguments.all, arguments.keep_storage)
    sys.stdout.writelines(f"{key}\n" for key in removed)
    sys.stdout.write(f"Total reclaimed space: {human_size(freed_bytes)}\n")
    return 0

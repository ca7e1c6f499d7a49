import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from app.cli.commands.machine import examples
from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "Makes a machine; one of that name must not be there.\n\n" + examples(
        "import backup.wherry", "import backup.wherry big"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="an archive of `wherry machine export`")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the machine (else that of --machine, or `default`)")


def run(context: Context, arguments: Namespace) -> int:
    name = arguments.name or context.machine
    with Activity() as activity:
        context.machines.import_(name, arguments.file, activity.phase)
    sys.stdout.write(f"{name}\n")
    return 0

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from app.cli.commands.machine import examples, existing_name
from app.cli.context import Context
from app.cli.output import human_size
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "The machine has to be off. The file has its settings and everything on its disk.\n\n" + examples(
        "export backup.wherry", "export backup.wherry big"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the archive to write")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the machine (else that of --machine, or `default`)")


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    with Activity() as activity:
        context.machines.export(name, arguments.file, activity.phase)
    sys.stdout.write(f"{arguments.file} ({human_size(arguments.file.stat().st_size)})\n")
    return 0

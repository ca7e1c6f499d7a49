import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    """Everything is a global option."""


def run(context: Context, arguments: Namespace) -> int:
    with Activity() as activity:
        status = context.backend.down(activity.phase)
    sys.stderr.writelines(f"{reason}\n" for reason in status.reasons)
    sys.stdout.write(f"The engine is {status.state}.\n")
    return 0

import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    """Everything is a global option."""


def run(context: Context, arguments: Namespace) -> int:
    with Activity() as activity:
        context.backend.down(activity.phase)
    sys.stdout.write("The engine is stopped.\n")
    return 0

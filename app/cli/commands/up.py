import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    """Everything is a global option."""


def run(context: Context, arguments: Namespace) -> int:
    with Activity() as activity:
        status = context.backend.up(activity.phase)
    sys.stdout.write(f"The engine is running at {status.host}\n")
    for name in ("cold_boot_reason", "update_note"):
        if note := status.detail.get(name):
            sys.stderr.write(f"{note}\n")
    sys.stdout.write(f"For other programs: export DOCKER_HOST={status.host}\n")
    return 0

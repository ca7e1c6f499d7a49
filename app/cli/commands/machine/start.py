import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from app.cli.commands.machine import add_name, examples
from app.cli.context import Context
from app.cli.progress import Activity

if TYPE_CHECKING:
    from vmbackend import MachineStatus


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("start", "start big")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = arguments.name or context.machine
    with Activity() as activity:
        status = context.machines.start(name, on_phase=lambda phase: activity.phase(f"Waiting for: {phase}"))
    tell_started(status)
    return 0


def tell_started(status: "MachineStatus") -> None:
    sys.stdout.write(f"The machine {status.name} is {status.state} at {status.engine_host}\n")
    sys.stdout.writelines(f"{reason}\n" for reason in status.reasons)
    if status.cold_boot_reason:
        sys.stderr.write(f"{status.cold_boot_reason}\n")
    if status.update_note:
        sys.stderr.write(f"{status.update_note}\n")
    sys.stdout.write(f"For other programs: export DOCKER_HOST={status.engine_host}\n")

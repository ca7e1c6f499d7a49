from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.commands.machine.start import tell_started
from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("restart", "restart big")
    parser.add_argument("-f", "--force", action="store_true", help="cut the power instead of asking the guest")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    with Activity() as activity:
        activity.phase("Stopping the machine")
        status = context.machines.restart(
            name, force=arguments.force, on_phase=lambda phase: activity.phase(f"Waiting for: {phase}")
        )
    tell_started(status)
    return 0

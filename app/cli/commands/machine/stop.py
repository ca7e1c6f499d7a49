import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("stop", "stop --force big")
    parser.add_argument(
        "-f", "--force", action="store_true", help="cut the power, also when nothing answers; unsaved data is lost"
    )
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    with Activity() as activity:
        activity.phase("Stopping the machine")
        context.machines.stop(name, force=arguments.force)
    sys.stdout.write(f"The machine {name} is stopped.\n")
    return 0

import sys
from argparse import ArgumentParser, Namespace

from app.cli.ask import confirmed
from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context
from app.cli.exit_codes import FAILED


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("reset", "reset -f big")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask, and cut its power if it runs")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    if not arguments.force and not confirmed(
        f"This empties the machine {name}: all its images, containers and volumes are lost. Its settings stay."
    ):
        return FAILED
    context.machines.reset(name, force=arguments.force)
    sys.stdout.write(f"The machine {name} starts empty the next time.\n")
    return 0

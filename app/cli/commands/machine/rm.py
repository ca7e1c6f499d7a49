import sys
from argparse import ArgumentParser, Namespace

from app.cli.ask import confirmed
from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context
from app.cli.exit_codes import FAILED


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("rm big", "rm -f big")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask, and cut its power if it runs")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    if not arguments.force and not confirmed(
        f"This removes the machine {name} with all its images, containers and volumes."
    ):
        return FAILED
    context.machines.remove(name, force=arguments.force)
    sys.stdout.write(f"{name}\n")
    return 0

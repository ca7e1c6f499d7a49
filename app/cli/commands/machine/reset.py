import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_loss, agreed_name
from app.cli.context import Context
from app.cli.exit_codes import FAILED

_LOSS = "This empties the machine {name}: all its images, containers and volumes are lost. Its settings stay."


def configure(parser: ArgumentParser) -> None:
    add_loss(parser, "reset")


def run(context: Context, arguments: Namespace) -> int:
    name = agreed_name(context, arguments, _LOSS)
    if name is None:
        return FAILED
    context.machines.reset(name, force=arguments.force)
    sys.stdout.write(f"The machine {name} starts empty the next time.\n")
    return 0

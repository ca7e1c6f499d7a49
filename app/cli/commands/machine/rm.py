import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_loss, agreed_name
from app.cli.context import Context
from app.cli.exit_codes import FAILED


def configure(parser: ArgumentParser) -> None:
    add_loss(parser, "rm")


def run(context: Context, arguments: Namespace) -> int:
    name = agreed_name(
        context, arguments, "This removes the machine {name} with all its images, containers and volumes."
    )
    if name is None:
        return FAILED
    context.machines.remove(name, force=arguments.force)
    sys.stdout.write(f"{name}\n")
    return 0

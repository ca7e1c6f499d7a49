import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("resume", "resume big")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    context.machines.resume(name)
    sys.stdout.write(f"The machine {name} is running.\n")
    return 0

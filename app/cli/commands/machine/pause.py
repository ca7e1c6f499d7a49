import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "Its containers stand still with it, and its memory stays in use.\n\n" + examples(
        "pause", "pause big"
    )
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    context.machines.pause(name)
    sys.stdout.write(f"The machine {name} is paused.\n")
    return 0

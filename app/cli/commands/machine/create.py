import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import examples, name_and_changes
from app.cli.context import Context


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("create", "create big cpus=8 memory=16G disk=200G", "set --help (for the settings)")
    parser.usage = "wherry machine create [NAME] [KEY=VALUE...]"
    parser.add_argument("words", nargs="*", metavar="NAME or KEY=VALUE", help="its name, and settings that differ")


def run(context: Context, arguments: Namespace) -> int:
    from vmbackend import MachineSettings, changed_settings

    name, changes = name_and_changes(context, arguments.words)
    context.machines.create(name, changed_settings(MachineSettings(), changes))
    sys.stdout.write(f"{name}\n")
    return 0

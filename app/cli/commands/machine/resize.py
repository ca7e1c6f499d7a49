import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.commands.machine.set import change
from app.cli.context import Context
from app.cli.exit_codes import USAGE

_SIZES = ("disk", "memory", "swap", "cpus")


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "What is on the disk stays. A running machine sees a larger disk at once.\n\n" + examples(
        "resize --disk 100G", "resize --memory 8G --cpus 4 big"
    )
    parser.add_argument("--disk", metavar="SIZE", help="such as 100G; a disk can only grow")
    parser.add_argument("--memory", metavar="SIZE", help="such as 4G, from its next start on")
    parser.add_argument("--swap", metavar="SIZE", help="such as 1G, from its next start on; 0 for none")
    parser.add_argument("--cpus", metavar="N", help="number of processors, from its next start on")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    changes = {name: value for name in _SIZES if (value := getattr(arguments, name)) is not None}
    if not changes:
        sys.stderr.write("wherry: say what to resize.\nRun 'wherry machine resize --help' for more.\n")
        return USAGE
    change(context, existing_name(context, arguments.name), changes)
    return 0

import sys
from argparse import ArgumentParser, Namespace
from collections import deque

from app.cli.commands.logs import line_count
from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("logs", "logs --serial -n 50", "logs --qemu big")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--serial", dest="part", action="store_const", const="serial", help="the guest's console")
    which.add_argument("--qemu", dest="part", action="store_const", const="qemu", help="what QEMU wrote")
    parser.add_argument("-n", "--tail", type=line_count, metavar="N", help="the last N lines only")
    parser.set_defaults(part="hostagent")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    for path in context.machines.logs(name, arguments.part):
        with path.open(encoding="utf-8", errors="replace", newline="") as log:
            sys.stdout.writelines(log if arguments.tail is None else deque(log, arguments.tail))
    return 0

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from app.cli.commands.machine import add_name, examples
from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import print_json


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "The exit code is 0 if the machine serves, else 1.\n\n" + examples("status", "status --json big")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    status = context.machines.status(arguments.name or context.machine)
    if arguments.json:
        print_json(status)
    else:
        facts = {name: value for name, value in asdict(status).items() if value not in (None, "", ())}
        reasons = facts.pop("reasons", ())
        width = max(map(len, facts)) + 1
        for name, value in facts.items():
            label = f"{name.replace('_', ' ')}:"
            sys.stdout.write(f"{label:{width}} {value}\n")
        sys.stdout.writelines(f"{reason}\n" for reason in reasons)
    return 0 if status.state in ("running", "degraded") else FAILED

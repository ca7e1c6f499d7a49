import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import add_format_option, print_json


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "The exit code is 0 if the engine answers, else 1."
    add_format_option(parser)


def run(context: Context, arguments: Namespace) -> int:
    status = context.backend.status()
    answers = status.state in ("running", "degraded")
    # Looking does not wake a machine up.
    available = answers or status.state == "idle"
    if arguments.format == "json":
        print_json(status)
        return 0 if available else FAILED
    facts = {"state": status.state, "backend": status.backend, "host": status.host, **status.detail}
    if answers:
        info = context.client.info()
        facts["containers"] = f"{info.containers} ({info.containers_running} running)"
        facts["images"] = str(info.images)
    width = max(map(len, facts)) + 1
    for name, value in facts.items():
        label = f"{name.replace('_', ' ')}:"
        sys.stdout.write(f"{label:{width}} {value}\n")
    sys.stdout.writelines(f"{reason}\n" for reason in status.reasons)
    return 0 if available else FAILED

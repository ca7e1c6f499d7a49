import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from app.cli.commands.machine import add_name, examples
from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import human_size, print_json

if TYPE_CHECKING:
    from vmbackend import MachineUsage


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "The exit code is 0 if the machine serves, else 1.\n\n" + examples("status", "status --json big")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    status = context.machines.status(arguments.name or context.machine)
    usage = context.machines.usage(status.name)
    if arguments.json:
        print_json({**asdict(status), "usage": asdict(usage)})
    else:
        facts = {name: value for name, value in asdict(status).items() if value not in (None, "", ())}
        reasons = facts.pop("reasons", ())
        facts |= _usage_lines(usage)
        width = max(map(len, facts)) + 1
        for name, value in facts.items():
            label = f"{name.replace('_', ' ')}:"
            sys.stdout.write(f"{label:{width}} {value}\n")
        sys.stdout.writelines(f"{reason}\n" for reason in reasons)
    return 0 if status.state in ("running", "degraded", "idle") else FAILED


def _usage_lines(usage: "MachineUsage") -> dict[str, str]:
    """What the guest uses beside what it costs this computer."""
    lines = {}
    for name, used, total, held in (
        ("memory", usage.guest_memory_used_bytes, usage.guest_memory_total_bytes, usage.host_memory_bytes),
        ("disk", usage.guest_disk_used_bytes, usage.guest_disk_total_bytes, usage.host_disk_bytes),
    ):
        parts = []
        if used is not None and total is not None:
            parts.append(f"{human_size(used)} of {human_size(total)} used in the machine")
        if held is not None:
            parts.append(f"{human_size(held)} taken on this computer")
        if parts:
            lines[name] = ", ".join(parts)
    return lines

import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import examples
from app.cli.context import Context
from app.cli.output import print_json, print_table
from app.services.machines import MachineSummary, summaries


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("ls", "ls --json")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(context: Context, arguments: Namespace) -> int:
    machines = summaries(context.machines)
    if arguments.json:
        print_json(machines)
    elif arguments.quiet:
        sys.stdout.writelines(f"{machine.name}\n" for machine in machines)
    else:
        print_table(("NAME", "STATE", "CPUS", "MEMORY", "DISK", "IMAGE", "PORTS"), map(_row, machines))
    return 0


def _row(machine: MachineSummary) -> tuple[str, ...]:
    return (
        machine.name,
        machine.state,
        str(machine.cpus or ""),
        f"{machine.memory_mib / 1024:.3g}GiB" if machine.memory_mib else "",
        f"{machine.disk_gib}GiB" if machine.disk_gib else "",
        " -> ".join(filter(None, (machine.image_version, machine.available_version))),
        ", ".join(machine.ports),
    )

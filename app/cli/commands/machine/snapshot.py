import sys
from argparse import ArgumentParser, Namespace
from datetime import datetime

from app.cli.ask import confirmed
from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.commands.machine.start import tell_started
from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import print_json, print_table
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    parser.epilog = examples("snapshot create before-upgrade", "snapshot list", "snapshot restore before-upgrade big")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    create = verbs.add_parser("create", help="keep the disk as it is now; the machine may run")
    listing = verbs.add_parser("list", help="show the snapshots")
    listing.add_argument("--json", action="store_true", help="for programs")
    restore = verbs.add_parser("restore", help="make the disk what it was; a machine that runs is taken down and up")
    restore.add_argument("-f", "--force", action="store_true", help="do not ask")
    remove = verbs.add_parser("rm", help="forget a snapshot")
    for verb in (create, restore, remove):
        verb.add_argument("snapshot", metavar="SNAPSHOT", help="its name")
    for verb in (create, listing, restore, remove):
        add_name(verb)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    match arguments.verb:
        case "create":
            context.machines.take_snapshot(name, arguments.snapshot)
        case "list":
            return _list(context, name, arguments.json)
        case "restore":
            return _restore(context, name, arguments.snapshot, arguments.force)
        case "rm":
            context.machines.remove_snapshot(name, arguments.snapshot)
    sys.stdout.write(f"{arguments.snapshot}\n")
    return 0


def _list(context: Context, name: str, as_json: bool) -> int:
    snapshots = context.machines.snapshots(name)
    if as_json:
        print_json(snapshots)
    else:
        rows = ((one.name, f"{datetime.fromtimestamp(one.created_at):%Y-%m-%d %H:%M:%S}") for one in snapshots)
        print_table(("NAME", "CREATED"), rows)
    return 0


def _restore(context: Context, name: str, snapshot: str, force: bool) -> int:
    if not force and not confirmed(
        f"This makes the disk of the machine {name} what it was in {snapshot}: what came after is lost."
    ):
        return FAILED
    with Activity() as activity:
        activity.phase("Going back")
        status = context.machines.restore_snapshot(
            name, snapshot, on_phase=lambda phase: activity.phase(f"Waiting for: {phase}")
        )
    if status is not None:
        tell_started(status)
    else:
        sys.stdout.write(f"The machine {name} is at {snapshot}.\n")
    return 0

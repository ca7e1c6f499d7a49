import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.context import Context
from app.cli.progress import Activity


def configure(parser: ArgumentParser) -> None:
    parser.epilog = (
        "The machine is saved with its running containers, which go on when it is started again.\n\n"
        + examples("stop", "stop --power-off", "stop --force big")
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--power-off", action="store_true", help="end the containers and switch the machine off")
    how.add_argument(
        "-f", "--force", action="store_true", help="cut the power, also when nothing answers; unsaved data is lost"
    )
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    saving = not (arguments.power_off or arguments.force)
    note = None
    with Activity() as activity:
        activity.phase("Saving the machine" if saving else "Stopping the machine")
        if saving:
            note = context.machines.save(name)
        else:
            context.machines.stop(name, force=arguments.force)
    if note is not None:
        sys.stderr.write(f"{note}\n")
    sys.stdout.write(f"The machine {name} is {context.machines.status(name).state}.\n")
    return 0

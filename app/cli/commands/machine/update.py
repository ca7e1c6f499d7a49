import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from app.cli.ask import confirmed
from app.cli.commands.machine import add_name, examples, existing_name
from app.cli.commands.machine.start import tell_started
from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.progress import Activity

_LOSS = "This makes the disk of the machine {name} what it was before its update: what came after is lost."


def configure(parser: ArgumentParser) -> None:
    parser.epilog = (
        "The machine is shut down, its containers too, and started with the new image of its system. Its disk stays,\n"
        "and a snapshot of it is taken first. If the new image does not serve, the machine goes back by itself. A\n"
        "machine that is started anew after an update of Wherry changes to its image in the same way.\n\n"
        + examples("update", "update --image build/guest/x86_64 big", "update --undo")
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--image", type=Path, metavar="DIR", help="an image in a folder, instead of the one Wherry has")
    how.add_argument(
        "--undo", action="store_true", help="go back to the image before, and to the disk of that time, within a day"
    )
    parser.add_argument("-f", "--force", action="store_true", help="undo without asking")
    add_name(parser)


def run(context: Context, arguments: Namespace) -> int:
    name = existing_name(context, arguments.name)
    if arguments.undo and not arguments.force and not confirmed(_LOSS.format(name=name)):
        return FAILED
    with Activity() as activity:

        def on_phase(phase: str) -> None:
            activity.phase(phase if phase[0].isupper() else f"Waiting for: {phase}")

        if arguments.undo:
            status = context.machines.undo_update(name, on_phase)
        else:
            image = arguments.image.absolute() if arguments.image is not None else None
            status = context.machines.update(name, image, on_phase)
    sys.stdout.write(f"The machine {name} has the guest image {status.image_version} ({status.image_digest}).\n")
    tell_started(status)
    return 0

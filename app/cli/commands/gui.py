import os
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec

from app.cli.context import Context
from app.core.errors import UserError

DISPLAY_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


def configure(parser: ArgumentParser) -> None:
    """Everything is a global option."""


def run(context: Context, arguments: Namespace) -> int:
    if find_spec("PySide6") is None:
        raise UserError("The window needs PySide6, which is not installed.", "Run: pip install 'wherry[desktop]'")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in DISPLAY_VARIABLES):
        raise UserError(
            "There is no display to open the window on.",
            "Log in to a desktop, or use the other commands: `wherry --help` lists them",
        )
    from app.gui.main import main

    return main(context.backend)

from argparse import ArgumentParser, Namespace
from importlib.util import find_spec

from app.cli.context import Context
from app.core.errors import UserError


def configure(parser: ArgumentParser) -> None:
    """Everything is a global option."""


def run(context: Context, arguments: Namespace) -> int:
    if find_spec("PySide6") is None:
        raise UserError("The window needs PySide6, which is not installed.", "Run: pip install 'wherry[desktop]'")
    from app.gui.main import main

    return main(context.backend)

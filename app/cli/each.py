"""Commands that do one thing to several objects."""

import sys
from collections.abc import Callable, Sequence

from app.cli.exit_codes import FAILED
from app.engine.errors import EngineError


def for_each(names: Sequence[str], act: Callable[[str], None]) -> int:
    """Do it to all, printing the name of each that worked; one that fails does not keep the others from it."""
    code = 0
    for name in names:
        try:
            act(name)
        except EngineError as failure:
            sys.stderr.write(f"wherry: Error response from engine: {failure}\n")
            code = FAILED
        else:
            sys.stdout.write(f"{name}\n")
    return code

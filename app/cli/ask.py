"""Asking before something is lost."""

import sys


def confirmed(what: str) -> bool:
    """Whether the person at the terminal says yes; without a terminal there is nobody to ask, which is a no."""
    if not sys.stdin.isatty():
        sys.stderr.write(f"wherry: {what} Nobody can be asked here: repeat it with -f.\n")
        return False
    sys.stderr.write(f"{what} Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")

"""`python -m vmbackend start NAME`: start a machine without a window, as the system does when its user logs in."""

import argparse
import sys
from pathlib import Path

from vmbackend.errors import MachineError
from vmbackend.manager import MachineManager


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m vmbackend", description="Start a machine.")
    parser.add_argument("verb", choices=["start"])
    parser.add_argument("--home", type=Path, metavar="DIR", help="the folder of all machines")
    parser.add_argument("name", metavar="NAME")
    arguments = parser.parse_args(argv)
    try:
        MachineManager(arguments.home).start(arguments.name)
    except MachineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

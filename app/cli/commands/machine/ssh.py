import sys
from argparse import ArgumentParser, Namespace

from app.cli.commands.machine import examples, existing_name
from app.cli.context import Context
from app.cli.exit_codes import USAGE
from app.cli.machine_session import run_in_machine

PASSES_ARGUMENTS_ON = True


def configure(parser: ArgumentParser) -> None:
    parser.usage = "wherry [--machine NAME] machine ssh [-t | -T] [COMMAND [ARGUMENTS]]"
    parser.epilog = (
        "Without a COMMAND it is a shell. The exit code is the command's. Words are joined by spaces for the shell.\n\n"
        "  -t   give the command a terminal\n  -T   give it none\n\n"
        + examples("ssh", "ssh df -h /var/lib/wherry", "ssh 'dmesg | tail'", "ssh -t top")
    )


def run(context: Context, arguments: Namespace) -> int:
    words: list[str] = arguments.arguments
    terminal: bool | None = None
    while words and words[0].startswith("-"):
        option, *words = words
        if option == "--":
            break
        if option not in ("-t", "-T"):
            sys.stderr.write(f"wherry: unknown option {option}.\nRun 'wherry machine ssh --help' for more.\n")
            return USAGE
        terminal = option == "-t"
    if terminal is None:
        # As ssh does: a shell for a person has a terminal, a command has none.
        terminal = not words and sys.stdin.isatty()
    name = existing_name(context, None)
    return run_in_machine(context.machines, name, " ".join(words), terminal)

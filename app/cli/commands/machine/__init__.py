"""`wherry machine VERB`: a module for each verb, shaped like those of the other commands.

`configure(parser)` says what the verb takes, `run(context, arguments)` does it and returns the exit code.
"""

import argparse
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module

from app.cli.ask import confirmed
from app.cli.context import Context
from app.cli.exit_codes import USAGE
from app.core.errors import UserError

VERBS = {
    "ls": "List the virtual machines",
    "create": "Make a machine without starting it",
    "start": "Start a machine, making it if need be",
    "stop": "Stop a machine",
    "pause": "Let a machine stand still",
    "resume": "Let a paused machine go on",
    "snapshot": "Keep a machine's disk as it is, and go back to it",
    "update": "Change a machine's system to a newer image of it, and back",
    "restart": "Stop a machine and start it again",
    "status": "Show where a machine stands",
    "logs": "Show what a machine's parts wrote",
    "ssh": "Run a command, or a shell, in a machine",
    "set": "Show or change a machine's settings",
    "resize": "Change a machine's sizes; its disk can grow while it runs",
    "export": "Write a machine that is off to a file",
    "import": "Make a machine of an exported file",
    "rm": "Remove a machine with everything in it",
    "reset": "Give a machine an empty disk, keeping its settings",
}

# Where the verb is a word of Python's.
_MODULES = {"import": "import_"}

# The verb has its own parser, made here, so that its help is its own.
PASSES_ARGUMENTS_ON = True


def configure(parser: ArgumentParser) -> None:
    """For the help of the group itself; verbs are parsed by `run`."""
    width = max(map(len, VERBS))
    listing = "\n".join(f"  {name:{width}}  {summary}" for name, summary in VERBS.items())
    parser.usage = "wherry machine VERB [ARGUMENTS]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"verbs:\n{listing}\n\nRun 'wherry machine VERB --help' for more on a verb."
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)


def run(context: Context, arguments: Namespace) -> int:
    from app.cli.main import Parser  # main imports this module when it is needed, so this cannot be above

    words: list[str] = arguments.arguments
    if not words:
        sys.stderr.write("wherry: `machine` needs a verb.\nRun 'wherry machine --help' for a list.\n")
        return USAGE
    verb, *rest = words
    if verb not in VERBS:
        sys.stderr.write(f"wherry: there is no command 'machine {verb}'.\nRun 'wherry machine --help' for a list.\n")
        return USAGE
    module = import_module(f"{__name__}.{_MODULES.get(verb, verb)}")
    parser = Parser(
        prog=f"wherry machine {verb}",
        description=VERBS[verb] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    if getattr(module, "PASSES_ARGUMENTS_ON", False) and rest[:1] not in (["-h"], ["--help"]):
        parsed = Namespace(arguments=rest)
    else:
        parsed = parser.parse_args(rest)
    from vmbackend import MachineError

    try:
        code: int = module.run(context, parsed)
    except MachineError as failure:
        raise UserError(str(failure)) from failure
    return code


def add_name(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the machine (else that of --machine, or `default`)")


def add_loss(parser: ArgumentParser, verb: str) -> None:
    """For a verb that takes data away."""
    parser.epilog = examples(verb, f"{verb} -f big")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask, and cut its power if it runs")
    add_name(parser)


def agreed_name(context: Context, arguments: Namespace, loss: str) -> str | None:
    """The machine meant; None without consent to the `loss`, a sentence with `{name}`. Raises UserError."""
    name = existing_name(context, arguments.name)
    return name if arguments.force or confirmed(loss.format(name=name)) else None


def existing_name(context: Context, name: str | None) -> str:
    """The machine meant, which has to be there. Raises UserError."""
    name = name or context.machine
    if name not in context.machines.names():
        raise UserError(f"There is no machine `{name}`.", "List them with: wherry machine ls")
    return name


def name_and_changes(context: Context, words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Of `[NAME] [KEY=VALUE...]`. Raises UserError."""
    name = context.machine
    if words and "=" not in words[0]:
        name, *words = words
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is no setting.", "Write settings as KEY=VALUE, after the machine's name.")
        changes[key] = value
    return name, changes


def examples(*lines: str) -> str:
    """For a parser's epilog."""
    return "examples:\n" + "\n".join(f"  wherry machine {line}" for line in lines)

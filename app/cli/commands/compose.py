import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.engine.errors import EngineUnreachable
from app.services.compose import environment, find_program

PASSES_ARGUMENTS_ON = True  # every option is Compose's own

WITHOUT_ENGINE = frozenset(("version", "--version", "-v", "help", "config", "convert", "completion"))


def configure(parser: ArgumentParser) -> None:
    parser.usage = "wherry compose [ARGUMENTS]"
    parser.epilog = "The arguments are Docker Compose's: `wherry compose help` lists them."


def run(context: Context, arguments: Namespace) -> int:
    """Becomes Compose, so that signals, terminal and exit code are its own."""
    program = find_program()
    given: list[str] = arguments.arguments
    if given and not WITHOUT_ENGINE & set(given[:1]):
        try:
            context.client.ping()
        except EngineUnreachable:
            context.start_engine()
    variables = environment(context.backend.host(), os.environ)
    sys.stdout.flush()
    if sys.platform == "win32":
        return subprocess.run([program, *given], env=variables, check=False).returncode
    os.execve(program, [program, *given], variables)

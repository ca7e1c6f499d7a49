"""Find the command, run it, and turn what went wrong into a sentence and an exit code.

Exit codes are those of `docker`: 125 for a command line that makes no sense, 1 for a request that failed, and for
`run` and `exec` what app.cli.exit_codes says.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Never

from app import __version__
from app.cli.context import Context
from app.cli.exit_codes import FAILED, INTERRUPTED, USAGE
from app.core.errors import UserError
from app.engine.errors import EngineError
from app.services.engines import BACKEND_CHOICES
from app.services.locations import DEFAULT_DATA_ROOT, DEFAULT_RUN_DIR, NativeLocations

COMMANDS = {
    "up": "Start the engine",
    "down": "Stop the engine and its containers",
    "status": "Show where the engine stands",
    "run": "Make a container from an image and run it",
    "ps": "List containers",
    "start": "Start containers again",
    "stop": "Stop running containers",
    "rm": "Remove containers",
    "logs": "Show what a container wrote",
    "exec": "Run a command in a running container",
    "images": "List images",
    "pull": "Pull an image from a registry",
    "push": "Push an image to a registry",
    "tag": "Give an image another name",
    "rmi": "Remove images",
    "history": "Show how an image came about",
    "save": "Save images to an archive",
    "load": "Load images from an archive",
    "search": "Search a registry for images",
    "login": "Log in to a registry",
    "logout": "Log out from a registry",
    "inspect": "Show everything about containers or images",
    "build": "Build an image from a Dockerfile",
    "builder": "Look after the build cache",
    "compose": "Run Docker Compose on the engine",
    "context": "Let the docker command talk to the engine",
    "machine": "Look after virtual machines",
    "gui": "Open the window",
    "doctor": "Look for what keeps Wherry from working here",
    "version": "Show the versions of Wherry and its engine",
}


class Parser(argparse.ArgumentParser):
    """Mistakes end with Docker's exit code and say where help is."""

    def error(self, message: str) -> Never:
        sys.stderr.write(f"wherry: {message}\nRun '{self.prog} --help' for more.\n")
        sys.exit(USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `wherry` with these arguments (default: the process's own); the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except EngineError as failure:
        sys.stderr.write(f"wherry: Error response from engine: {failure}\n")
        return FAILED
    except UserError as failure:
        sys.stderr.write(f"wherry: {failure}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    parser = _top_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command not in COMMANDS:
        sys.stderr.write(f"wherry: there is no command {options.command!r}.\nRun 'wherry --help' for a list.\n")
        return FAILED
    module = import_module(f"app.cli.commands.{options.command}")
    command = Parser(
        prog=f"wherry {options.command}",
        description=COMMANDS[options.command] + ".",
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    module.configure(command)
    context = Context(
        options.backend,
        options.host,
        NativeLocations.from_environment(options.data_root, options.run_dir),
        options.machine or os.environ.get("WHERRY_MACHINE") or None,
    )
    if getattr(module, "PASSES_ARGUMENTS_ON", False) and options.arguments[:1] not in (["-h"], ["--help"]):
        parsed = argparse.Namespace(arguments=options.arguments)
    else:
        parsed = command.parse_args(options.arguments)
    code: int = module.run(context, parsed)
    sys.stdout.flush()
    return code


def _top_parser() -> Parser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        prog="wherry",
        usage="wherry [OPTIONS] COMMAND [ARGUMENTS]",
        description="Containers on any desktop.",
        epilog=f"commands:\n{listing}\n\nRun 'wherry COMMAND --help' for more on a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend",
        choices=BACKEND_CHOICES,
        default=os.environ.get("WHERRY_BACKEND", "auto"),
        help="where the engine runs: native (this Linux) or vm; auto is native on Linux, vm elsewhere",
    )
    parser.add_argument(
        "--machine", metavar="NAME", help="the engine in this virtual machine ($WHERRY_MACHINE, else default)"
    )
    parser.add_argument("--host", metavar="ADDRESS", help="talk to the engine at unix://PATH or http://127.0.0.1:PORT")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help=f"native engine: images and containers ($WHERRY_DATA_ROOT, else {DEFAULT_DATA_ROOT})",
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", help=f"native engine: sockets ($WHERRY_RUN_DIR, else {DEFAULT_RUN_DIR})"
    )
    parser.add_argument("--version", action="version", version=f"wherry {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser

import argparse
import os
import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import print_json
from app.services.docker_context import DEFAULT_CONTEXT, DEFAULT_SOCKET, DockerContexts


def configure(parser: ArgumentParser) -> None:
    parser.usage = "wherry context (install | remove | show) [OPTIONS]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n  wherry context install --use\n  wherry --machine big context install --name big\n"
        "  docker --context wherry ps\n  wherry context remove"
    )
    parser.add_argument("action", choices=("install", "remove", "show"), help="make it, take it away, or look at it")
    parser.add_argument("--name", default=DEFAULT_CONTEXT, help="the docker context's name (default: %(default)s)")
    parser.add_argument("--use", action="store_true", help="install: let the docker command use it from now on")
    parser.add_argument(
        "--default-socket",
        action="store_true",
        help=f"install: let {DEFAULT_SOCKET} lead there too, for programs that know no contexts",
    )
    parser.add_argument("--json", action="store_true", help="show: for programs")


def run(context: Context, arguments: Namespace) -> int:
    contexts, name = DockerContexts(), arguments.name
    match arguments.action:
        case "install":
            host = context.backend.host()
            description = f"Wherry, {context.backend.name}"
            contexts.install(name, host, description, arguments.use, arguments.default_socket)
            sys.stdout.write(f"The docker context `{name}` leads to {host}\n")
            if not arguments.use:
                sys.stdout.write(f"To use it: docker context use {name}\n")
            elif other := os.environ.get("DOCKER_HOST"):
                sys.stderr.write(f"wherry: DOCKER_HOST={other} is set, and the docker command obeys that first\n")
        case "remove":
            if not contexts.remove(name):
                sys.stderr.write(f"wherry: There is no docker context `{name}`.\n")
                return FAILED
        case "show":
            found = contexts.show(name)
            if arguments.json:
                print_json(found)
            elif not found.host:
                sys.stdout.write(f"There is no docker context `{name}`. To make it: wherry context install\n")
            else:
                sys.stdout.write(
                    f"name:           {name}\nhost:           {found.host}\nfile:           {found.file}\n"
                )
                sys.stdout.write(f"current:        {'yes' if found.current else 'no'}\n")
                sys.stdout.write(f"default socket: {'yes' if found.default_socket else 'no'}\n")
            return 0 if found.host else FAILED
    return 0

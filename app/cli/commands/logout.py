from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.services.registry_logins import HUB, Logins


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("server", nargs="?", default=HUB, metavar="SERVER", help="default: Docker Hub")


def run(context: Context, arguments: Namespace) -> int:
    if Logins().erase(arguments.server):
        print(f"Removing login credentials for {arguments.server}")
    else:
        print(f"Not logged in to {arguments.server}")
    return 0

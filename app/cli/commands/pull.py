from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.cli.transfers import show_transfer
from app.services.images import with_default_tag
from app.services.registry_logins import Logins, server_of


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="print its name at the end only")
    parser.add_argument("--platform", metavar="OS/ARCH", help="instead of this machine's")
    parser.add_argument("name", metavar="NAME[:TAG|@DIGEST]")


def run(context: Context, arguments: Namespace) -> int:
    name = arguments.name if arguments.all_tags else with_default_tag(arguments.name)
    pull(context, name, arguments.platform, arguments.quiet)
    print(name)
    return 0


def pull(context: Context, name: str, platform: str | None = None, quiet: bool = False) -> None:
    """With the login for its registry, and progress on standard output. Raises EngineError, UserError."""
    server = server_of(name)
    authorization = Logins().find(server).header(server)
    with context.client.pull_image(name, platform, authorization) as messages:
        show_transfer(f"Pulling {name}", messages, quiet)

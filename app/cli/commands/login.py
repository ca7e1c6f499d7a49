import getpass
import sys
from argparse import ArgumentParser, Namespace

from app.cli.context import Context
from app.core.errors import UserError
from app.services.registry_logins import HUB, Login, Logins


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-u", "--username", metavar="NAME")
    parser.add_argument("-p", "--password", metavar="PASSWORD", help="others may see it: rather use --password-stdin")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("server", nargs="?", default=HUB, metavar="SERVER", help="default: Docker Hub")


def run(context: Context, arguments: Namespace) -> int:
    logins = Logins()
    username, password = arguments.username, arguments.password
    if arguments.password_stdin:
        if password is not None or not username:
            raise UserError("--password-stdin goes with --username, and without --password.")
        password = sys.stdin.read().rstrip("\r\n")
    if not username or password is None:
        if not sys.stdin.isatty():
            raise UserError("There is no terminal to ask on.", "Give --username and --password-stdin.")
        username = username or input("Username: ")
        password = password if password is not None else getpass.getpass("Password: ")
    token = context.client.check_login(arguments.server, username, password)
    logins.store(arguments.server, Login(username, password, token))
    print("Login Succeeded")
    return 0

import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from typing import Any

from app.cli import terminal
from app.cli.context import Context
from app.cli.exit_codes import FAILED, of_refused_start
from app.cli.session import Session, require_terminal
from app.engine.errors import EngineError
from app.services.run_options import environment


def configure(parser: ArgumentParser) -> None:
    parser.usage = "wherry exec [OPTIONS] CONTAINER COMMAND [ARGUMENTS]"
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass input on to the command")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-d", "--detach", action="store_true", help="leave it running in the background")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="an environment variable")
    add("-w", "--workdir", metavar="DIR", help="directory to start in")
    add("-u", "--user", metavar="USER[:GROUP]", help="whom to run as")
    add("name", metavar="CONTAINER")
    add("program", metavar="COMMAND")
    add("rest", nargs=REMAINDER, metavar="ARGUMENTS")


def run(context: Context, arguments: Namespace) -> int:
    takes_input = arguments.interactive and not arguments.detach
    if arguments.tty and takes_input:
        require_terminal()
    client = context.client
    exec_id = client.create_exec(arguments.name, _config(arguments))
    try:
        if arguments.detach:
            client.start_exec_detached(exec_id)
            return 0
        stream = client.start_exec(exec_id, arguments.tty)
    except EngineError as failure:
        sys.stderr.write(f"wherry: Error response from engine: {failure}\n")
        code = of_refused_start(failure)
        return code if code in (126, 127) else FAILED
    with stream:
        session = Session(
            stream,
            arguments.tty,
            takes_input,
            resize=lambda rows, columns: client.resize_exec(exec_id, rows, columns),
        )
        with session.prepared():
            session.run()
    return 0 if session.detached else client.exec_state(exec_id).exit_code or 0


def _config(arguments: Namespace) -> dict[str, Any]:
    attached = not arguments.detach
    config: dict[str, Any] = {
        "Cmd": [arguments.program, *arguments.rest],
        "Tty": arguments.tty,
        "AttachStdin": arguments.interactive and attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "Env": environment(arguments.env),
        "WorkingDir": arguments.workdir or "",
        "User": arguments.user or "",
    }
    if arguments.tty and attached:
        config["ConsoleSize"] = list(terminal.size())
    return config

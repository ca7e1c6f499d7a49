import contextlib
import sys
from argparse import REMAINDER, ArgumentParser, Namespace

from app.cli import terminal
from app.cli.commands.pull import pull
from app.cli.context import Context
from app.cli.exit_codes import ENGINE_REFUSED, of_refused_start
from app.cli.session import Session, require_terminal
from app.core.errors import UserError
from app.engine.errors import EngineError, EngineUnreachable
from app.engine.models import CreatedContainer
from app.services.containers import MissingImage, RunOptions, create
from app.services.images import with_default_tag
from app.services.run_options import environment_file


def configure(parser: ArgumentParser) -> None:
    parser.usage = "wherry run [OPTIONS] IMAGE [COMMAND] [ARGUMENTS]"
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass input on to the container")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-d", "--detach", action="store_true", help="leave it running in the background and print its id")
    add("--rm", dest="remove", action="store_true", help="remove it when it ends")
    add("--name", help="its name (default: one is made up)")
    _add_list(parser, "-e", "--env", "NAME[=VALUE]", "an environment variable; NAME alone takes the value from here")
    _add_list(parser, None, "--env-file", "FILE", "environment variables, one a line")
    _add_list(parser, "-p", "--publish", "[IP:][HOST:]PORT", "make a port reachable from here")
    _add_list(parser, "-v", "--volume", "SOURCE:PATH[:ro]", "a volume or folder to mount at PATH")
    _add_list(parser, None, "--tmpfs", "PATH[:OPTIONS]", "memory to mount at PATH")
    _add_list(parser, "-l", "--label", "KEY[=VALUE]", "a label")
    add("-w", "--workdir", metavar="DIR", help="directory to start in")
    add("-u", "--user", metavar="USER[:GROUP]", help="whom to run as")
    add("-h", "--hostname", metavar="NAME", help="its host name")
    add("--network", metavar="NAME", help="network to connect to (bridge, host, none, or one of yours)")
    add("--entrypoint", metavar="PROGRAM", help="run this instead of the image's entrypoint")
    add("-m", "--memory", metavar="SIZE", help="most memory it may use, like 512m")
    add("--cpus", type=float, metavar="N", help="most processors it may use, like 1.5")
    add("--pids-limit", type=int, metavar="N", help="most processes it may have")
    add("--read-only", action="store_true", help="its own files cannot be changed")
    add("--init", action="store_true", help="run an init that reaps processes and passes signals on")
    _add_list(parser, None, "--cap-add", "NAME", "a Linux capability to add")
    _add_list(parser, None, "--cap-drop", "NAME", "a Linux capability to take away")
    _add_list(parser, None, "--security-opt", "OPTION", "seccomp=FILE, no-new-privileges, …")
    add("image", metavar="IMAGE")
    add("command", nargs=REMAINDER, metavar="COMMAND")


def _add_list(parser: ArgumentParser, short: str | None, long: str, metavar: str, text: str) -> None:
    names = [short, long] if short else [long]
    parser.add_argument(*names, action="append", default=[], metavar=metavar, help=text)


def run(context: Context, arguments: Namespace) -> int:
    try:
        return _run(context, arguments)
    except EngineError as failure:
        sys.stderr.write(f"wherry: Error response from engine: {failure}\n")
        return ENGINE_REFUSED
    except UserError as failure:
        sys.stderr.write(f"wherry: {failure}\n")
        return ENGINE_REFUSED


def _run(context: Context, arguments: Namespace) -> int:
    if arguments.tty and arguments.interactive and not arguments.detach:
        require_terminal()
    options = _options(arguments)
    container = _create(context, options, attached=not arguments.detach)
    for warning in container.warnings:
        sys.stderr.write(f"wherry: {warning}\n")
    if arguments.detach:
        return _start_detached(context, options, container.id)
    return _run_attached(context, options, container.id)


def _options(arguments: Namespace) -> RunOptions:
    from_files = (entry for path in arguments.env_file for entry in environment_file(path))
    return RunOptions(
        image=arguments.image,
        command=tuple(arguments.command),
        name=arguments.name,
        environment=(*from_files, *arguments.env),
        ports=tuple(arguments.publish),
        volumes=tuple(arguments.volume),
        tmpfs=tuple(arguments.tmpfs),
        labels=tuple(arguments.label),
        workdir=arguments.workdir,
        user=arguments.user,
        hostname=arguments.hostname,
        network=arguments.network,
        entrypoint=arguments.entrypoint,
        memory=arguments.memory,
        cpus=arguments.cpus,
        pids_limit=arguments.pids_limit,
        read_only=arguments.read_only,
        init=arguments.init,
        interactive=arguments.interactive,
        tty=arguments.tty,
        remove=arguments.remove,
        cap_add=tuple(arguments.cap_add),
        cap_drop=tuple(arguments.cap_drop),
        security_opt=tuple(arguments.security_opt),
        console_size=terminal.size() if arguments.tty and not arguments.detach else None,
    )


def _create(context: Context, options: RunOptions, attached: bool) -> CreatedContainer:
    """Start the engine and pull the image if there is none; asking first would cost every run a request."""
    try:
        return create(context.client, options, attached)
    except EngineUnreachable as failure:
        if failure.cause != "absent" or context.given_host:
            raise
        context.start_engine()
    except MissingImage:
        _pull(context, options.image)
    try:
        return create(context.client, options, attached)
    except MissingImage:  # an engine that was just started
        _pull(context, options.image)
        return create(context.client, options, attached)


def _pull(context: Context, image: str) -> None:
    """Told on standard error, for the container's output is on the other."""
    sys.stderr.write(f"wherry: there is no image {image!r} here; pulling it\n")
    with contextlib.redirect_stdout(sys.stderr):
        pull(context, with_default_tag(image))


def _start_detached(context: Context, options: RunOptions, container_id: str) -> int:
    try:
        context.client.start_container(container_id)
    except EngineError as failure:
        return _refused(context, options, container_id, failure)
    sys.stdout.write(f"{container_id}\n")
    return 0


def _run_attached(context: Context, options: RunOptions, container_id: str) -> int:
    """Attach, wait and only then start, so that nothing the program does is missed."""
    client = context.client
    with (
        client.attach_container(container_id, options.tty, stdin=options.interactive) as stream,
        client.wait_container(container_id, "removed" if options.remove else "next-exit") as ended,
    ):
        session = Session(
            stream,
            options.tty,
            options.interactive,
            resize=lambda rows, columns: client.resize_container(container_id, rows, columns),
            send_signal=lambda name: client.kill_container(container_id, name),
        )
        with session.prepared():
            try:
                client.start_container(container_id)
            except EngineError as failure:
                return _refused(context, options, container_id, failure)
            session.run()
            return 0 if session.detached else ended.result()


def _refused(context: Context, options: RunOptions, container_id: str, failure: EngineError) -> int:
    sys.stderr.write(f"wherry: Error response from engine: {failure}\n")
    if options.remove:
        # The engine may have removed it already, as it would have at its end.
        with contextlib.suppress(EngineError):
            context.client.remove_container(container_id, force=True)
    return of_refused_start(failure)

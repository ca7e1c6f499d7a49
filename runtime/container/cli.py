"""`python -m runtime oci`: OCI bundles from the command line, with the verbs and options of runc and crun."""

import argparse
import contextlib
import errno
import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.container import interpreter, lifecycle
from runtime.container.features import features
from runtime.container.spawn import forget_ignored_signals
from runtime.container.start import read_config
from runtime.container.state import DEFAULT_ROOT, Container, containers
from runtime.errors import InvalidParameter, NotFound, ProcessFault, WherryError

if TYPE_CHECKING:
    from runtime.oci.spec import Process

_EXIT_CODES = {errno.ENOENT: 127, errno.EACCES: 126, errno.ENOEXEC: 126, errno.EISDIR: 126}
_RUNTIME_FAILED = 125


def main(argv: list[str]) -> int:
    """Run one verb; returns the exit status: the program's for run and exec, else 0, or 1 with one line of error."""
    arguments = _parser().parse_args(argv)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    try:
        interpreter.seal()
        forget_ignored_signals()
        return verb(arguments)
    except ProcessFault as fault:
        print(f"wherry oci: {fault}", file=sys.stderr)
        if verb in (_run, _exec):
            return _EXIT_CODES.get(fault.errno, _RUNTIME_FAILED) if fault.phase == "exec" else _RUNTIME_FAILED
        return 1
    except (WherryError, OSError) as error:
        print(f"wherry oci: {error}", file=sys.stderr)
        return _RUNTIME_FAILED if verb in (_run, _exec) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime oci", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=DEFAULT_ROOT, metavar="DIR", help=f"where state is kept ({DEFAULT_ROOT})"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(
        name: str, verb: Callable[[argparse.Namespace], int], help: str, *, container: bool = True
    ) -> argparse.ArgumentParser:
        subparser = verbs.add_parser(name, help=help)
        subparser.set_defaults(verb=verb)
        if container:
            subparser.add_argument("id", help="the container's id")
        return subparser

    for name, verb, help in (
        ("create", _create, "set a container up, its program waiting for start"),
        ("run", _run, "create, start, wait and delete"),
    ):
        subparser = add(name, verb, help)
        subparser.add_argument("-b", "--bundle", type=Path, default=Path(), metavar="DIR", help="the bundle (.)")
        _add_process_options(subparser)
        if verb is _run:
            subparser.add_argument("-d", "--detach", action="store_true", help="do not wait, do not delete")
    add("start", _start, "let the program of a created container run")
    add("state", _state, "print the state as JSON")
    subparser = add("kill", _kill, "send a signal")
    subparser.add_argument("signal", nargs="?", default="TERM", help="name or number (TERM)")
    subparser.add_argument("-a", "--all", action="store_true", help="SIGKILL to every process of the container")
    subparser = add("delete", _delete, "remove a stopped container")
    subparser.add_argument("-f", "--force", action="store_true", help="stop it by SIGKILL first")
    subparser = add("exec", _exec, "run another program in a running container")
    subparser.add_argument("-p", "--process", type=Path, metavar="FILE", help="a JSON file, an OCI process object")
    subparser.add_argument("-t", "--tty", action="store_true", help="with a terminal")
    subparser.add_argument("-u", "--user", metavar="UID[:GID]")
    subparser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    subparser.add_argument("--cwd", metavar="DIR")
    subparser.add_argument("-d", "--detach", action="store_true", help="do not wait for it")
    _add_process_options(subparser)
    subparser.add_argument("args", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    add("list", _list, "list containers", container=False)
    add("features", _features, "print what is supported as JSON", container=False)
    return parser


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="write the process's pid here")
    parser.add_argument(
        "--console-socket", type=Path, metavar="SOCKET", help="send the master of the terminal to this unix socket"
    )


def _container(arguments: argparse.Namespace) -> Container:
    return Container(arguments.root, arguments.id)


def _created(arguments: argparse.Namespace) -> tuple[Container, lifecycle.Started]:
    container = _container(arguments)
    started = lifecycle.create(container, arguments.bundle, arguments.console_socket)
    _write_pid_file(arguments.pid_file, started.pid)
    return container, started


def _create(arguments: argparse.Namespace) -> int:
    _created(arguments)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    container, started = _created(arguments)
    try:
        # Before the program runs: it may be ended as soon as it does.
        if not arguments.detach:
            _forward_signals(started.pidfd)
        lifecycle.start(container)
        if arguments.detach:
            return 0
        return lifecycle.wait(started)
    finally:
        if not arguments.detach:
            lifecycle.delete(container, force=True)


def _start(arguments: argparse.Namespace) -> int:
    lifecycle.start(_container(arguments))
    return 0


def _state(arguments: argparse.Namespace) -> int:
    container = _container(arguments)
    print(json.dumps(container.state(container.load()), indent=2))
    return 0


def _kill(arguments: argparse.Namespace) -> int:
    lifecycle.kill(_container(arguments), _signal_number(arguments.signal), everything=arguments.all)
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    try:
        lifecycle.delete(_container(arguments), force=arguments.force)
    except NotFound:
        if not arguments.force:  # as with rm -f
            raise
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    container = _container(arguments)
    started = lifecycle.execute(container, _process(arguments, container), arguments.console_socket)
    _write_pid_file(arguments.pid_file, started.pid)
    if arguments.detach:
        return 0
    _forward_signals(started.pidfd)
    return lifecycle.wait(started)


def _list(arguments: argparse.Namespace) -> int:
    row = "{:<24} {:<8} {:<8} {:<20} {}"
    print(row.format("ID", "PID", "STATUS", "CREATED", "BUNDLE"))
    for container in containers(arguments.root):
        saved = container.load()
        status = container.status(saved)
        created = datetime.fromtimestamp(saved.created_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        print(row.format(saved.id, 0 if status == "stopped" else saved.pid, status, created, saved.bundle))
    return 0


def _features(arguments: argparse.Namespace) -> int:
    print(json.dumps(features(), indent=2))
    return 0


def _process(arguments: argparse.Namespace, container: Container) -> "Process":
    """What `exec` is to run: the given document, or the container's own process with what the options change."""
    if arguments.process is not None:
        process: Process = json.loads(arguments.process.read_bytes())
        return process
    process = read_config(container.load().bundle)["process"]
    process["args"] = arguments.args[1:] if arguments.args[:1] == ["--"] else arguments.args
    if not process["args"]:
        raise InvalidParameter("exec needs a program to run, or --process")
    process["terminal"] = arguments.tty
    if arguments.cwd is not None:
        process["cwd"] = arguments.cwd
    process["env"] = [*process.get("env", []), *arguments.env]
    if arguments.user is not None:
        uid, _, gid = arguments.user.partition(":")
        if not uid.isdigit() or not (gid or "0").isdigit():
            raise InvalidParameter(f"invalid user {arguments.user!r}: give numbers, UID or UID:GID")
        process["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    return process


def _signal_number(name: str) -> int:
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    with contextlib.suppress(KeyError):
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    raise InvalidParameter(f"unknown signal {name!r}")


def _write_pid_file(path: Path | None, pid: int) -> None:
    if path is not None:
        new = path.with_name(f".{path.name}.new")
        new.write_text(str(pid))
        new.rename(path)


def _forward_signals(pidfd: int) -> None:
    """While waiting, what we are sent is meant for the program."""

    def forward(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)

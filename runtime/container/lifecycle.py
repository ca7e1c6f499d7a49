"""The operations of runtime-spec runtime.md on a bundle, for the command line: create, start, kill, delete, exec.

The container's process is a child of whoever creates it, and outlives that. What is acquired on the way to a created
container is undone if a later step fails.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.cgroups import open_cgroup, remove_subtree
from runtime.container import report
from runtime.container.facts import read_host_facts
from runtime.container.hooks import run_hook
from runtime.container.op import Refused
from runtime.container.plan import Launch, Stdio
from runtime.container.spawn import Child
from runtime.container.start import FILTER_NAME, read_config, start_container, start_exec
from runtime.container.state import Container, Saved, open_process
from runtime.errors import Conflict, InvalidParameter, ProcessFault, SystemFault
from runtime.linux.seccomp import compile_filter
from runtime.oci.validate import validate

if TYPE_CHECKING:
    from runtime.oci.spec import Process, Spec

_CGROUP_PARENT = "/wherry-oci"
_DEATH_TIMEOUT_S = 10.0


class Started(NamedTuple):
    """A process that is the caller's child; `pidfd` is the caller's to close."""

    pid: int
    pidfd: int
    start_time: int


def create(container: Container, bundle: Path, console_socket: Path | None = None) -> Started:
    """Create a container, its process waiting for `start`.

    Raises InvalidParameter for the bundle, AlreadyExists for the id, ProcessFault for what init could not do.
    """
    bundle = bundle.resolve()
    with _refusals():
        spec = read_config(str(bundle))
    validate(spec)
    _check_terminal(spec["process"], console_socket)
    cgroup_path = _cgroup_path(spec, container.id)
    with contextlib.ExitStack() as undo:
        container.make()
        undo.callback(container.remove)
        if wanted := spec.get("linux", {}).get("seccomp"):
            _compile(wanted, container.directory / FILTER_NAME)
        os.mkfifo(container.fifo, 0o600)
        cgroup = open_cgroup(cgroup_path)
        cgroup.create(spec.get("linux", {}).get("resources", {}))
        undo.callback(_delete_cgroup, cgroup_path)

        with contextlib.ExitStack() as opened:
            # Open for both, a fifo never ends, whoever comes and goes.
            fifo = os.open(container.fifo, os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, fifo)
            launch = Launch(
                id=container.id,
                bundle=str(bundle),
                stdio=Stdio(0, 1, 2),
                join=cgroup.join_paths(),
                start_fifo=fifo,
                runtime_hooks=True,
            )
            with _refusals():
                child = start_container(spec, launch, read_host_facts(), filter_dir=str(container.directory))
            undo.callback(_kill_and_reap, child)
            opened.callback(child.report.close)

            state = {
                "ociVersion": spec["ociVersion"],
                "id": container.id,
                "status": "creating",
                "pid": child.pid,
                "bundle": str(bundle),
                "annotations": spec.get("annotations", {}),
            }
            _hear(child, "created", console_socket, spec, state)

        container.save(
            Saved(
                spec["ociVersion"],
                container.id,
                child.pid,
                child.start_time,
                str(bundle),
                cgroup_path,
                time.time_ns(),
                dict(spec.get("annotations", {})),
            )
        )
        undo.pop_all()
    return Started(child.pid, child.pidfd, child.start_time)


def start(container: Container) -> None:
    """Let the program of a created container run; raises Conflict in any other state."""
    saved = container.load()
    status = container.status(saved)
    if status != "created":
        raise Conflict(f"cannot start container {container.id}: it is {status}, not created")
    try:
        fifo = os.open(container.fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise Conflict(f"cannot start container {container.id}: its process has ended") from None
    try:
        container.fifo.unlink()
        os.write(fifo, b"0")
    finally:
        os.close(fifo)
    with _refusals():
        spec = read_config(saved.bundle)
        _run_hooks(spec, "poststart", container.state(saved))


def kill(container: Container, number: int, *, everything: bool = False) -> None:
    """Send a signal to the container's process, or with `everything` SIGKILL to all in its cgroup."""
    saved = container.load()
    if everything:
        open_cgroup(saved.cgroup).kill()
        return
    with open_process(saved) as pidfd:
        if pidfd is None:
            raise Conflict(f"cannot signal container {container.id}: it is not running")
        signal.pidfd_send_signal(pidfd, number)


def delete(container: Container, *, force: bool = False) -> None:
    """Remove what is left of a stopped container; with `force` stop it by SIGKILL first."""
    saved = container.load()
    status = container.status(saved)
    if status != "stopped":
        if not force:
            raise Conflict(f"cannot delete container {container.id}: it is {status}; stop it, or use --force")
        _kill_and_wait(saved)
    open_cgroup(saved.cgroup).kill()
    _delete_cgroup(saved.cgroup)
    stopped = container.state(saved)
    container.remove()
    # The specification: a failing poststop hook is a warning, the container is deleted all the same.
    with contextlib.suppress(Refused):
        _run_hooks(read_config(saved.bundle), "poststop", stopped)


def execute(container: Container, process: "Process", console_socket: Path | None = None) -> Started:
    """Start another process in a running container; raises ProcessFault if it cannot be executed."""
    saved = container.load()
    _check_terminal(process, console_socket)
    status = container.status(saved)
    if status != "running":
        raise Conflict(f"cannot execute in container {container.id}: it is {status}")
    with contextlib.ExitStack() as stack:
        pidfd = stack.enter_context(open_process(saved))
        if pidfd is None:
            raise Conflict(f"cannot execute in container {container.id}: it is not running")
        document = container.directory / f"process-{os.getpid()}.json"
        document.write_text(json.dumps(process))
        stack.callback(document.unlink)
        launch = Launch(
            id=container.id,
            bundle=saved.bundle,
            stdio=Stdio(0, 1, 2),
            join=open_cgroup(saved.cgroup).join_paths(),
        )
        with _refusals():
            child = start_exec(str(document), launch, pidfd, read_host_facts(), filter_dir=str(container.directory))
        with contextlib.ExitStack() as undo:
            undo.callback(_kill_and_reap, child)
            stack.callback(child.report.close)
            _hear(child, "ready", console_socket, None, {})
            undo.pop_all()
    return Started(child.pid, child.pidfd, child.start_time)


def wait(started: Started) -> int:
    """Wait for a process of ours; returns its exit code as a shell says it (128 + signal)."""
    result = os.waitid(os.P_PIDFD, started.pidfd, os.WEXITED)
    assert result is not None  # only with WNOHANG
    os.close(started.pidfd)
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def _hear(child: Child, goal: str, console_socket: Path | None, spec: "Spec | None", state: Mapping[str, Any]) -> None:
    """Listen to init until it says `goal`, and after `ready` until it has executed; raises ProcessFault."""
    reached = False
    while True:
        news = report.receive(child.report)
        if news is None:
            if reached:
                return
            raise ProcessFault("init", errno.ECHILD, "the container's init was killed before its program could run")
        if news.kind == "failed":
            raise ProcessFault(news.body["phase"], news.body["errno"], news.body["message"])
        if news.kind == "console" and news.fd is not None:
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, news.fd)
                _send_console(console_socket, news.fd)
        elif news.kind == "hooks" and spec is not None:
            with _refusals():
                _run_hooks(spec, "prestart", state)
                _run_hooks(spec, "createRuntime", state)
            report.hooks_done(child.report)
        elif news.kind == goal:
            if goal == "created":
                return
            reached = True


def _send_console(path: Path | None, master: int) -> None:
    assert path is not None  # _check_terminal
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError as error:
            raise InvalidParameter(f"cannot send the terminal to {path}: {error.strerror}") from None
        socket.send_fds(sock, [b"/dev/ptmx"], [master])


def _check_terminal(process: "Process", console_socket: Path | None) -> None:
    if process.get("terminal") and console_socket is None:
        raise InvalidParameter(
            "process.terminal is true, and there is nobody to give the terminal to: use --console-socket"
        )
    if console_socket is not None and not process.get("terminal"):
        raise InvalidParameter("--console-socket is of use only with process.terminal true in config.json")


def _run_hooks(spec: "Spec", name: str, state: Mapping[str, Any]) -> None:
    hooks: Mapping[str, Any] = spec.get("hooks", {})
    for position, hook in enumerate(hooks.get(name, ())):
        run_hook(f"{name}[{position}]", hook, state)


def _compile(seccomp: Mapping[str, Any], path: Path) -> None:
    try:
        path.write_bytes(compile_filter(seccomp))
    except OSError as error:
        raise InvalidParameter(f"config.json: linux.seccomp cannot be compiled: {error}") from None


def _cgroup_path(spec: "Spec", id: str) -> str:
    path = spec.get("linux", {}).get("cgroupsPath") or f"{_CGROUP_PARENT}/{id}"
    if ":" in path:
        raise InvalidParameter(
            f"config.json: linux.cgroupsPath {path!r}: systemd slices are not supported, give a path"
        )
    # The specification leaves the meaning of a relative path to the runtime.
    return path if path.startswith("/") else f"{_CGROUP_PARENT}/{path}"


def _delete_cgroup(path: str) -> None:
    open_cgroup(path).delete()
    if path.startswith(f"{_CGROUP_PARENT}/"):
        with contextlib.suppress(Conflict, OSError):
            _remove_if_unused(_CGROUP_PARENT)


def _remove_if_unused(path: str) -> None:
    for procs in open_cgroup(path).join_paths():
        with os.scandir(os.path.dirname(procs)) as entries:
            if any(entry.is_dir() for entry in entries):
                return
    remove_subtree(path)


def _kill_and_reap(child: Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)


def _kill_and_wait(saved: Saved) -> None:
    with open_process(saved) as pidfd:
        if pidfd is None:
            return
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_DEATH_TIMEOUT_S * 1000):
            raise SystemFault(f"container {saved.id} did not end within {_DEATH_TIMEOUT_S:.0f} s of SIGKILL")


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """A `Refused` of the launching side as the error kind a person gets to see."""
    try:
        yield
    except Refused as refusal:
        raise ProcessFault("config", refusal.errno, str(refusal)) from None

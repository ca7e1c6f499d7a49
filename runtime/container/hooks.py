"""Hooks of config.json: a program of the host, the container's state on its standard input (runtime-spec config.md)."""

import contextlib
import errno
import json
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.container.op import Init, Refused
from runtime.linux.files import read_file

if TYPE_CHECKING:
    from runtime.oci.spec import Hook

State = Mapping[str, Any]
"""The state object of runtime-spec runtime.md: ociVersion, id, status, pid, bundle, annotations."""


class RunHooks(NamedTuple):
    """createContainer hooks (before pivot_root) and startContainer hooks (after), run by init itself."""

    name: str
    hooks: "Sequence[Hook]"
    state: State

    def describe(self) -> str:
        return f"run the {self.name} hooks"

    def apply(self, init: Init) -> None:
        state = self.state
        if "pid" not in state:
            state = {**state, "pid": _pid_of_proc()}
        for position, hook in enumerate(self.hooks):
            run_hook(f"{self.name}[{position}]", hook, state)


def run_hook(where: str, hook: "Hook", state: State) -> None:
    """Run one hook to its end; raises Refused naming it if it cannot start, fails, or takes too long."""
    path = hook["path"]
    environment = dict(entry.partition("=")[::2] for entry in hook.get("env", ()))
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            path,
            hook.get("args") or [path],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
    except OSError as error:
        os.close(writing)
        raise Refused(error.errno or 0, f"the hook {where} ({path}) cannot be run: {error.strerror}") from None
    finally:
        os.close(reading)
    # A hook need not read its input. SIGPIPE may be at its default here, and would end us.
    with _ignored(signal.SIGPIPE):
        try:
            os.write(writing, json.dumps(state).encode())
        except BrokenPipeError:
            pass
        finally:
            os.close(writing)
    status = _wait(pid, hook.get("timeout"))
    if status is None:
        raise Refused(errno.ETIMEDOUT, f"the hook {where} ({path}) took longer than {hook['timeout']} s")
    if status:
        raise Refused(errno.ECANCELED, f"the hook {where} ({path}) failed with exit status {status}")


def _wait(pid: int, timeout_s: int | None) -> int | None:
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        in_time = bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
        if not in_time:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status) if in_time else None
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _pid_of_proc() -> int:
    """Our pid as the mounted /proc, the host's until pivot_root, numbers it."""
    return int(read_file("/proc/self/stat").split(b" ", 1)[0])

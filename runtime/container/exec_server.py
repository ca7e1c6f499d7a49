"""A process that starts execs without a fork for each: half of what an exec costs is the copying of the interpreter.

It runs one thread for an exec. What a thread has to itself is all a program needs: its root and directory, descriptors,
namespaces, cgroups (v1), user, capabilities and filters. The thread enters the container, becomes who the program is to
be, has it started by `linux.vfork`, as a child of this process's parent, and ends. What belongs to a whole process - a
terminal's session, rlimits, oom_score_adj, a user namespace - is declined: then the parent forks.

One exec at a time: a thread that cannot go on, its cgroup being frozen or out of CPU time, may hold the interpreter.
"""

import _thread
import contextlib
import errno
import gc
import marshal
import os
import resource
import select
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.container import init
from runtime.container.facts import HostFacts
from runtime.container.init import NotStarted
from runtime.container.op import Init, Refused
from runtime.container.plan import Launch, Stdio, compile_exec
from runtime.container.report import Report, send_order
from runtime.container.spawn import Child, keep_only, spawn
from runtime.container.start import read_process, thread_launch
from runtime.linux.files import write_file
from runtime.linux.namespaces import CLONE_FILES, CLONE_FS, CLONE_NEWPID, unshare
from runtime.linux.process import PR_SET_DUMPABLE, prctl, set_name
from runtime.linux.vfork import SUPPORTED, Spawner

if TYPE_CHECKING:
    from runtime.oci.spec import Process

__all__ = ["SUPPORTED", "ask", "serve"]

PROCESS_NAME = "wherry-execs"

_DECLINED = ("terminal", "rlimits", "oomScoreAdj")

_USED = frozenset(
    (
        "brk",
        "clone",
        "close",
        "execve",
        "exit",
        "exit_group",
        "futex",
        "madvise",
        "mmap",
        "mprotect",
        "munmap",
        "prctl",
        "rt_sigprocmask",
        "sendmsg",
        "setsid",
    )
)
"""System calls of the thread's own after its filter: one that refuses them might keep the interpreter for ever."""


def serve(facts: HostFacts) -> Child:
    """Start the server. After each exec it sends one message on its report; it ends when the other end is closed."""

    def main(report: Report) -> NoReturn:
        keep_only(report.fileno())
        set_name(PROCESS_NAME)
        prctl(PR_SET_DUMPABLE, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, facts.nofile)
        if facts.oom_score_adj:
            write_file("/proc/self/oom_score_adj", "0")
        gc.enable()  # it lives long, and has its own copies of the pages by then
        _serve(report, facts._replace(oom_score_adj=0))
        os._exit(0)

    return spawn(main, 0)


def ask(server: socket.socket, process: str, launch: Launch, container: int) -> socket.socket:
    """Have it start the OCI process object in the file `process`, and return where it tells what becomes of that.

    That is spawned, declined or failed. `container` is a pidfd of the container's init. Raises OSError if the server
    is gone, or the order too long.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo, theirs:
        undo.callback(ours.close)
        stdio = [fd for fd in launch.stdio if fd is not None]
        places = [None if fd is None else stdio.index(fd) for fd in launch.stdio]
        words: Any = (process, launch.id, launch.bundle, list(launch.join), places)
        send_order(server, marshal.dumps(words), [*stdio, container, theirs.fileno()])
        undo.pop_all()
    return ours


def _serve(server: Report, facts: HostFacts) -> None:
    spawner = Spawner()
    while (order := server.await_order()) is not None:
        words, fds = order
        ended = _thread.allocate_lock()
        ended.acquire()
        _thread.start_new_thread(_thread_main, (words, fds, facts, spawner, ended))
        ended.acquire()
        for fd in fds:
            os.close(fd)
        server.ready()


def _thread_main(words: bytes, fds: list[int], facts: HostFacts, spawner: Spawner, ended: _thread.LockType) -> None:
    try:
        # From here on the descriptors in `fds` are this thread's own copies, and its end closes what is left of them.
        unshare(CLONE_FS | CLONE_FILES)
        *stdio, container, telling = fds
        process, id, bundle, join, places = marshal.loads(words)
        launch = Launch(id, bundle, Stdio(*(None if place is None else stdio[place] for place in places)), join=join)
        with socket.socket(fileno=telling) as sock:
            _start(process, launch, container, facts, spawner, _Teller(sock, id, container))
    finally:
        ended.release()


class _Teller(Report):
    """A failure in a container that has ended meanwhile is just that."""

    def __init__(self, sock: socket.socket, id: str, container: int) -> None:
        super().__init__(sock)
        self._id = id
        self._container = container

    def failed(self, phase: str, errno_: int, message: str) -> None:
        poll = select.poll()
        poll.register(self._container, select.POLLIN)
        with contextlib.suppress(OSError):  # refused by a filter
            if poll.poll(0):
                phase, errno_, message = "launcher", errno.ESRCH, f"container {self._id} is not running"
        super().failed(phase, errno_, message)


def _start(path: str, launch: Launch, container: int, facts: HostFacts, spawner: Spawner, report: Report) -> None:
    try:
        process = read_process(path)
        ready = thread_launch(launch, _USED)
        if ready is None or any(process.get(name) for name in _DECLINED):
            report.declined()
        else:
            _spawn(process, ready, container, facts, spawner, report)
    except Refused as refusal:
        report.failed("config", refusal.errno, str(refusal))
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        report.failed("init", getattr(error, "errno", None) or 0, f"init failed: {error!r}")


def _spawn(
    process: "Process", launch: Launch, container: int, facts: HostFacts, spawner: Spawner, report: Report
) -> None:
    plan = compile_exec(process, launch, container, facts, CLONE_NEWPID)
    state = Init(report, plan.program.environment)
    try:
        program = init.prepare(plan, state)
        prctl(PR_SET_DUMPABLE, 0)  # once more, for a change of user may have undone it: until exec, this memory is its
        pid, pidfd = spawner.spawn(program, plan.program.args, state.environment)
    except NotStarted:
        return
    except OSError as error:
        if error.errno == errno.EAGAIN:  # this thread itself is one more than the container's limit of processes allows
            report.declined()
        else:
            report.failed("exec", error.errno or 0, f"exec {error.filename}: {init.reason(error)}")
        return
    report.spawned(pid, pidfd)
    os.close(pidfd)

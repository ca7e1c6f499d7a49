"""`python -m runtime launcher`: arguments, the socket, and nothing else before the loop."""

import fcntl
import gc
import os
import resource
import signal
import socket
import sys
from typing import NamedTuple

from runtime.container import interpreter
from runtime.container.facts import read_host_facts
from runtime.container.spawn import forget_ignored_signals
from runtime.launcher.execs import ExecServer
from runtime.launcher.loop import Loop
from runtime.launcher.pool import ReadyInits
from runtime.launcher.protocol import LOCK_NAME, LOG_NAME, SOCKET_NAME, STAGE_NAME
from runtime.launcher.server import Server
from runtime.linux.process import set_name

USAGE = """usage: python -m runtime launcher --run-dir DIR [--daemon] [--cold]

Start containers for the engine, and keep what a restarted engine needs to find them again. The engine starts this
by itself; by hand it is of use only with an engine on the same DIR.

options:
  --run-dir DIR  where its socket, its lock and (with --daemon) launcher.log are; made if it is missing
  --daemon       go into the background; exit with 0 once the socket answers
  --cold         prepare nothing ahead
  -h, --help     show this

signals:
  SIGTERM  exit at once. Containers run on; their exit codes can then be known to nobody.
"""


class _Options(NamedTuple):
    run_dir: str
    daemon: bool
    cold: bool


class _UsageError(Exception):
    pass


def main(argv: list[str]) -> int:
    """Run the launcher; returns the exit status."""
    if "-h" in argv or "--help" in argv:
        print(USAGE, end="")
        return 0
    try:
        options = _parse(argv)
    except _UsageError as error:
        print(f"launcher: {error}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    try:
        interpreter.seal()
        forget_ignored_signals()
        return _serve(options)
    except OSError as error:
        print(f"launcher: {error}", file=sys.stderr)
        return 1


# By hand: argparse would be a tenth of this process's memory.
def _parse(argv: list[str]) -> _Options:
    run_dir, daemon, cold = "", False, False
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--daemon":
            daemon = True
        elif argument == "--cold":
            cold = True
        elif argument == "--run-dir":
            run_dir = next(arguments, "")
        elif argument.startswith("--run-dir="):
            run_dir = argument.partition("=")[2]
        else:
            raise _UsageError(f"unknown argument {argument!r}")
    if not run_dir:
        raise _UsageError("--run-dir is missing")
    return _Options(os.path.abspath(run_dir), daemon, cold)


def _serve(options: _Options) -> int:
    os.makedirs(options.run_dir, mode=0o700, exist_ok=True)
    # Held, with no further use, until the process ends; a child loses it at exec.
    lock = os.open(os.path.join(options.run_dir, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"launcher: another launcher is running in {options.run_dir}", file=sys.stderr)
        return 1
    path = os.path.join(options.run_dir, SOCKET_NAME)
    listener = _listen(path)
    if options.daemon and os.fork():
        # The socket queues connections from here on: that is all a caller waits for.
        os._exit(0)
    if options.daemon:
        _detach(os.path.join(options.run_dir, LOG_NAME))
    try:
        _loop(listener, None if options.cold else _stage(options.run_dir))
    finally:
        os.unlink(path)
    return 0


def _listen(path: str) -> socket.socket:
    if os.path.lexists(path):
        os.unlink(path)  # ours by the lock; its launcher was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen: {error.strerror or error}", path) from None
    finally:
        os.umask(mask)
    listener.listen()
    listener.setblocking(False)
    return listener


def _detach(log: str) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, fd in enumerate((null, null, errors)):
        os.dup2(fd, target)
    os.closerange(errors, errors + 1)
    os.closerange(null, null + 1)


def _stage(run_dir: str) -> str:
    stage = os.path.join(run_dir, STAGE_NAME)
    os.makedirs(stage, mode=0o700, exist_ok=True)
    return stage


def _loop(listener: socket.socket, stage: str | None) -> None:
    facts = read_host_facts()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    set_name("wherry-launcher")
    loop = Loop()
    _stop_on_signal(loop)
    if stage is None:
        Server(loop, listener, facts, None, None)
    else:
        Server(loop, listener, facts, ReadyInits(loop, facts, stage), ExecServer(loop, facts))
    # Everything here so far stays for good: no collection may touch (and copy) those pages in a child.
    gc.collect()
    gc.freeze()
    loop.run()


def _stop_on_signal(loop: Loop) -> None:
    for number in range(1, signal.NSIG):
        # What was ignored by whoever started us (nohup, a shell) must not be ignored in containers.
        if signal.getsignal(number) is signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    waking, woken = socket.socketpair()
    waking.setblocking(False)
    woken.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def wake() -> None:
        woken.recv(64)
        loop.stop()
        waking.close()

    loop.add(woken.fileno(), wake)

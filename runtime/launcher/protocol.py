"""The launcher's protocol: one JSON object a datagram, descriptors beside it, over a SOCK_SEQPACKET socket.

A request has "op" and "seq", a number its reply repeats; replies may come in any order and have "ok". The
descriptors that travel with a message (SCM_RIGHTS) are named, in order, by its "fds" list.

A container process is keyed by (id, exec_id); exec_id "" is the container's own.

Requests (engine → launcher), and what their reply carries besides seq and ok:
    hello     {version}             → {pid, version}
    run       Run                   → {pid, start_time}, descriptors pidfd and, with a terminal, console
    exec      Exec                  → {pid, start_time}, descriptors pidfd and, with a terminal, console
    list      {}                    → {processes: [ProcessRecord], more?: true}
    reopen    {id, exec_id}         → {}, the kept descriptors, pidfd if the process lives, console if it has one
    ack       {id, exec_id}         → {}   forgets the exit and closes what was kept
    drop      {id, exec_id, names}  → {}   closes some of what was kept
    shutdown  {}                    → {}   refused while a process lives
A reply with ok false carries {phase, errno, message}. A long `list` comes as several replies with the same seq;
all but the last have "more".

Unsolicited (launcher → engine), repeated after a reconnect until acknowledged:
    {event: "exit"} Exit
"""

import array
import json
import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NotRequired, TypedDict

VERSION = 1
"""To be raised when an engine and a launcher of different ages would misunderstand each other about a start.

Each version has a socket of its own, so that a new engine finds no older launcher where it starts its own; the older
one keeps its containers, and hello, list, reopen, ack, drop, shutdown and exits are for all versions as they are here.
"""

SOCKET_NAME = f"launcher-{VERSION}.sock"
SOCKET_PATTERN = "launcher*.sock"
"""Those of all versions."""

LOCK_NAME = f"launcher-{VERSION}.lock"
LOG_NAME = "launcher.log"
STAGE_NAME = "stage"

MAX_DATAGRAM_BYTES = 64 * 1024
MAX_FDS = 64
"""Per datagram; the kernel's own limit (SCM_MAX_FD) is 253."""

STDIO = ("stdin", "stdout", "stderr")
KEEP_PREFIX = "keep."

Message = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Overlay(TypedDict):
    """Absolute paths; `lower` with the topmost layer first. Without `upper` and `work` it is read-only."""

    type: Literal["overlay"]
    lower: list[str]
    upper: NotRequired[str]
    work: NotRequired[str]


class Run(TypedDict):
    """Start a container: `bundle` holds config.json and, if the engine compiled one, seccomp.bpf.

    `join` lists cgroup.procs files the child enters before anything else. Whether there is a terminal, and of
    what size, is for config.json's `process` to say. Descriptors: stdin, stdout, stderr (the child's ends;
    absent ones are /dev/null), cgroup (a cgroup2 directory), netns, keep.<name> (kept until `ack`).
    """

    op: Literal["run"]
    seq: int
    id: str
    bundle: str
    rootfs: Overlay | None
    join: list[str]
    fds: list[str]


class Exec(TypedDict):
    """Start another process in a container: `process` is the path of a JSON file, an OCI `process` object.

    Descriptors as for `run`, without netns. For a container that an earlier launcher started, `bundle` and
    the descriptor `container` (a pidfd of its init) say what this launcher does not remember. With `fork` it has
    a process of its own from the beginning: somebody in its PID namespace may trace it before it executes.
    """

    op: Literal["exec"]
    seq: int
    id: str
    exec_id: str
    process: str
    fork: NotRequired[bool]
    bundle: NotRequired[str]
    join: list[str]
    fds: list[str]


class ExitRecord(TypedDict):
    """`code` as a shell gives it (128 + signal); `at_ns` nanoseconds since the epoch."""

    code: int
    signal: int | None
    at_ns: int


class ProcessRecord(TypedDict):
    """`start_time` is field 22 of /proc/<pid>/stat, in clock ticks since boot: with pid, an identity."""

    id: str
    exec_id: str
    pid: int
    start_time: int
    bundle: str
    exited: ExitRecord | None


class Exit(ExitRecord):
    event: Literal["exit"]
    id: str
    exec_id: str
    pid: int


class ProtocolError(Exception):
    """The peer sent something that is no message; the connection is of no more use."""


def encode(message: Mapping[str, Any]) -> bytes:
    """The datagram for a message."""
    return _encode(message).encode()


def decode(datagram: bytes) -> Message:
    """The message in a datagram; raises ProtocolError."""
    try:
        message = json.loads(datagram)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a message is a JSON object")
    return message


def send(sock: socket.socket, message: Mapping[str, Any], fds: Mapping[str, int] | None = None) -> None:
    """Send one message, its "fds" list filled in from `fds`, which stay the caller's.

    Raises OSError: EAGAIN on a full non-blocking socket, EMSGSIZE for a message past the socket's buffer.
    """
    fds = fds or {}
    datagram = encode({**message, "fds": list(fds)})
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds.values()))] if fds else []
    sock.sendmsg([datagram], rights)


def receive(sock: socket.socket) -> tuple[Message, dict[str, int]] | None:
    """Receive one message and its descriptors by name (close-on-exec, now the caller's); None at end of file.

    When this process may open no more files, the message comes without any, and `has_lost_fds` says so (unix(7)).
    Raises ProtocolError for a malformed message, having closed its descriptors.
    """
    datagram, control, flags, _ = sock.recvmsg(
        MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = _descriptors(control)
    if not datagram:
        return None
    try:
        if flags & socket.MSG_TRUNC:
            raise ProtocolError("a message longer than the protocol allows")
        message = decode(datagram)
        names = message.get("fds", [])
        if flags & socket.MSG_CTRUNC and isinstance(names, list) and 0 < len(names) <= MAX_FDS:
            close_all(fds)
            return message, {}
        if not _are_names(names, len(fds)):
            raise ProtocolError(f"{len(fds)} descriptors received for the names {names}")
    except ProtocolError:
        close_all(fds)
        raise
    return message, dict(zip(names, fds, strict=True))


def has_lost_fds(message: Message, fds: Mapping[str, int]) -> bool:
    return bool(message.get("fds")) and not fds


def close_all(fds: Iterable[int]) -> None:
    """Close every descriptor of `fds`."""
    for fd in fds:
        os.close(fd)


def _are_names(names: Any, count: int) -> bool:
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(names) == len(set(names)) == count
    )


def _descriptors(control: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return list(fds)

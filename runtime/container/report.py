"""What a container's init tells its parent, over a close-on-exec SOCK_SEQPACKET pair.

End of file after `ready` means exec(2) succeeded: the kernel closed the child's end. End of file without it means
the child died on the way.
"""

import array
import json
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

_MAX_BYTES = 16 * 1024
_MAX_ORDER_BYTES = 256 * 1024
_MAX_ORDER_FDS = 8
_MAX_MESSAGE_CHARACTERS = 2000
_GO = b"go"


class News(NamedTuple):
    """One message: `kind` is console, hooks, created, ready, spawned, declined or failed; `fd` comes with some."""

    kind: str
    body: dict[str, Any]
    fd: int | None


class Report:
    """The child's end. A method raises OSError (EPIPE) if the parent is gone before the container is created."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._on_its_own = False

    def console(self, master: int) -> None:
        """Hand over the master side of the terminal."""
        self._send("console", {}, [master])

    def ask_for_hooks(self) -> bool:
        """Have the parent run the hooks of the runtime namespace; False if one failed, or nobody answers."""
        self._send("hooks", {})
        return self._socket.recv(len(_GO)) == _GO

    def await_order(self) -> tuple[bytes, list[int]] | None:
        """What `send_order` sends to an init that stands ready; None if the parent goes away instead."""
        space = socket.CMSG_SPACE(_MAX_ORDER_FDS * 4)
        order, control, _, _ = self._socket.recvmsg(_MAX_ORDER_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        return (order, _descriptors(control)) if order else None

    def fileno(self) -> int:
        return self._socket.fileno()

    def created(self) -> None:
        """Everything is set up, and the program waits for `start`: from here on the parent may go away."""
        self._send("created", {})
        self._on_its_own = True

    def ready(self) -> None:
        """exec(2) is next."""
        self._send("ready", {})

    def spawned(self, pid: int, pidfd: int) -> None:
        """The program runs, in a process other than this."""
        self._send("spawned", {"pid": pid}, [pidfd])

    def declined(self) -> None:
        """Another way of starting it must be taken; nothing has been done."""
        self._send("declined", {})

    def failed(self, phase: str, errno: int, message: str) -> None:
        """Nothing came of it; with nobody to hear it, the message goes to standard error."""
        # JSON escapes may make a message six times as long as its text: what is left still fits a datagram.
        message = message[:_MAX_MESSAGE_CHARACTERS]
        try:
            self._send("failed", {"phase": phase, "errno": errno, "message": message}, insist=True)
        except (BrokenPipeError, ConnectionResetError):
            os.write(2, f"{message}\n".encode(errors="replace"))

    def _send(self, kind: str, body: dict[str, Any], fds: list[int] | None = None, *, insist: bool = False) -> None:
        datagram = json.dumps({"kind": kind, **body}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            # SIGPIPE is at its default here, as the program will want it.
            self._socket.sendmsg([datagram], rights, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            if insist or not self._on_its_own:
                raise


def receive(sock: socket.socket) -> News | None:
    """The next message from the child, None at end of file. BlockingIOError if `sock` is non-blocking."""
    datagram, control, _, _ = sock.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    if not datagram:
        return None
    fds = _descriptors(control)
    body = json.loads(datagram)
    return News(body["kind"], body, fds[0] if fds else None)


def send_order(sock: socket.socket, order: bytes, fds: list[int]) -> None:
    """Tell an init that stands ready which container it is; raises OSError if it is gone, or the order too long."""
    sock.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def _descriptors(control: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _, _, payload in control:
        fds.frombytes(payload)
    return list(fds)


def hooks_done(sock: socket.socket) -> None:
    """Answer `ask_for_hooks`: they all succeeded."""
    sock.send(_GO)

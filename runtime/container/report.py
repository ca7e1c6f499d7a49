"""What a container's init tells its parent, over a close-on-exec SOCK_SEQPACKET pair.

End of file after `ready` means exec(2) succeeded: the kernel closed the child's end. End of file without it means the
child died on the way. Docstrings name the sender's view; the parent reads with `receive`.
"""

import array
import json
import socket
from typing import Any, NamedTuple

_MAX_BYTES = 16 * 1024
_GO = b"go"


class News(NamedTuple):
    """One message: `kind` is console, ready, created, hooks or failed; `fd` comes with console only."""

    kind: str
    body: dict[str, Any]
    fd: int | None


class Report:
    """The child's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def console(self, master: int) -> None:
        """Hand over the master side of the terminal."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))]
        self._socket.sendmsg([_encode("console", {})], rights)

    def created(self) -> None:
        """Everything is set up; the program waits for `start`."""
        self._socket.send(_encode("created", {}))

    def ready(self) -> None:
        """exec(2) is next."""
        self._socket.send(_encode("ready", {}))

    def failed(self, phase: str, errno: int, message: str) -> None:
        self._socket.send(_encode("failed", {"phase": phase, "errno": errno, "message": message}))

    def ask_for_hooks(self) -> bool:
        """Have the parent run the hooks of the runtime namespace; False if one failed, or nobody answers."""
        self._socket.send(_encode("hooks", {}))
        return self._socket.recv(len(_GO)) == _GO


def receive(sock: socket.socket) -> News | None:
    """The next message from the child, None at end of file. BlockingIOError if `sock` is non-blocking."""
    datagram, control, _, _ = sock.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    if not datagram:
        return None
    fds = array.array("i")
    for _, _, payload in control:
        fds.frombytes(payload)
    body = json.loads(datagram)
    return News(body["kind"], body, fds[0] if fds else None)


def hooks_done(sock: socket.socket) -> None:
    """Answer `ask_for_hooks`: they all succeeded."""
    sock.send(_GO)


def _encode(kind: str, body: dict[str, Any]) -> bytes:
    # JSON escapes can make a message six times as long as its text; cutting it here keeps the datagram whole.
    if "message" in body:
        body["message"] = body["message"][:2000]
    return json.dumps({"kind": kind, **body}).encode()

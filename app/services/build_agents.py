"""`wherry build --ssh`: this computer's SSH agent, lent to the commands of one build.

They may ask which keys there are and have something signed; anything else an agent can do is refused here, before it
is asked (draft-miller-ssh-agent).
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.engine.errors import EngineError
from app.engine.streams import AttachedStream

_REQUEST_IDENTITIES = 11
_SIGN_REQUEST = 13
_FAILURE = b"\x00\x00\x00\x01\x05"
_MESSAGE_BYTES_MAX = 256 << 10


@contextlib.contextmanager
def lent(client: EngineClient, path: str) -> Iterator[str]:
    """The token under which the engine has the agent at the socket `path`. Raises UserError, EngineError."""
    token = secrets.token_urlsafe(24)
    with _connected(path) as agent, client.lend_agent(token) as connection:
        thread = threading.Thread(target=_serve, args=(connection, agent), name="ssh-agent", daemon=True)
        thread.start()
        try:
            yield token
        finally:
            connection.close()
            with contextlib.suppress(OSError):
                agent.shutdown(socket.SHUT_RDWR)
            thread.join()


def _connected(path: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise UserError("--ssh needs an SSH agent with a unix socket, which this system does not have.")
    agent = socket.socket(socket.AF_UNIX)
    try:
        agent.connect(path)
    except OSError as failed:
        agent.close()
        raise UserError(
            f"--ssh: no SSH agent answers at {path}: {failed.strerror}.",
            "Start one (`eval $(ssh-agent)`), add the key (`ssh-add FILE`), and name its socket or nothing.",
        ) from failed
    return agent


def _serve(connection: AttachedStream, agent: socket.socket) -> None:
    pending = bytearray()
    chunks = iter(connection)

    def from_engine(size: int) -> bytes:
        while len(pending) < size:
            if (chunk := next(chunks, None)) is None:
                raise EOFError
            pending.extend(chunk.data)
        found = bytes(pending[:size])
        del pending[:size]
        return found

    def from_agent(size: int) -> bytes:
        found = b""
        while len(found) < size:
            if not (data := agent.recv(size - len(found))):
                raise EOFError
            found += data
        return found

    with contextlib.suppress(OSError, EOFError, EngineError):
        while True:
            request = _message(from_engine)
            if request[4] not in (_REQUEST_IDENTITIES, _SIGN_REQUEST):
                connection.write(_FAILURE)
                continue
            agent.sendall(request)
            connection.write(_message(from_agent))


def _message(read: Callable[[int], bytes]) -> bytes:
    head = read(4)
    size = int.from_bytes(head, "big")
    if not 1 <= size <= _MESSAGE_BYTES_MAX:
        raise EOFError
    return head + read(size)

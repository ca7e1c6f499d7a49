"""The engine's socket on this computer, carried to the engine's socket in the guest."""

import json
from collections.abc import Callable
from pathlib import Path

from vmbackend import host
from vmbackend.errors import GuestUnreachable
from vmbackend.forward.relay import GuestStream, LocalStream, Relay
from vmbackend.forward.use import MeteredListener, UseMeter


def serve_engine_socket(
    name: str, socket_path: Path, open_guest: Callable[[], GuestStream], uses: UseMeter | None = None
) -> Relay:
    """Listen on the engine's endpoint until the relay is closed; `uses` counts the clients. Raises OSError."""
    listener = MeteredListener(host.EngineListener(name, socket_path), uses or UseMeter())
    return Relay(listener, open_guest, _refuse)


def _refuse(stream: LocalStream, error: GuestUnreachable) -> None:
    """Say what is wrong in the engine's own way, so that the reason reaches the terminal of whoever asked."""
    body = json.dumps({"message": f"The machine's engine is not reachable: {error}"}).encode()
    stream.sendall(
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: application/json\r\n"
        b"Connection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    stream.shutdown_write()
    # Closing with the request unread would reset the connection, and the client would not see the answer.
    while stream.recv(65536):
        pass

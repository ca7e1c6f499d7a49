"""The API's unix socket: mode 0660, owned by root and one group, with a stale file replaced and a live one refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from runtime.api.handlers import ROUTES
from runtime.api.handlers.system import server_header
from runtime.api.http1 import serve_connection
from runtime.api.router import Router
from runtime.engine.engine import Engine
from runtime.errors import Conflict, InvalidParameter

BACKLOG = 512
MAX_PATH_BYTES = 107  # sockaddr_un.sun_path without its NUL (unix(7))


@contextlib.asynccontextmanager
async def serve(engine: Engine, path: Path, group: int) -> AsyncIterator[None]:
    """Serve the Engine API while the context lasts; connections still open at its end are dropped."""
    router = Router(engine, ROUTES)
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        connections.add(task)
        try:
            await serve_connection(router, reader, writer, server_header())
        except asyncio.CancelledError:
            pass  # only `serve` cancels; asyncio 3.11 logs a cancelled handler as an error
        finally:
            connections.discard(task)

    listener = _listen(path, group)
    server = await asyncio.start_unix_server(connected, sock=listener, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def _listen(path: Path, group: int) -> socket.socket:
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidParameter(f"the socket path {path} is longer than {MAX_PATH_BYTES} bytes: choose a shorter one")
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # no moment at which others could connect
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        os.chown(path, 0, group)
        os.chmod(path, 0o660)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _clear_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise Conflict(f"something else answers on {path}: stop it, or give another --host")

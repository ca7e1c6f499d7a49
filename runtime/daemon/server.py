"""Where the API listens: unix sockets (0660, root and one group), and TCP with certificates on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from runtime import __version__
from runtime.api.handlers import ROUTES
from runtime.api.http1 import refuse_connection, serve_connection
from runtime.api.router import Router, common_headers
from runtime.daemon.hosts import Host, TcpHost, UnixHost
from runtime.daemon.tls import terminate
from runtime.engine.engine import Engine
from runtime.errors import Conflict, InvalidParameter, SystemFault

log = logging.getLogger(__name__)

BACKLOG = 512
MAX_PATH_BYTES = 107  # sockaddr_un.sun_path without its NUL (unix(7))
MIN_CONNECTIONS = 64
MAX_REFUSING = 256  # connections told that there is no room; those beyond are closed without a word


@contextlib.asynccontextmanager
async def serve(engine: Engine, hosts: Sequence[Host], group: int) -> AsyncIterator[None]:
    """Serve the Engine API while the context lasts; connections still open at its end are dropped."""
    clients = _Clients(Router(engine, ROUTES), _room_for_connections())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(clients.drop_all)
        for host in hosts:
            await stack.enter_async_context(_listening(host, clients, group))
        yield


def _room_for_connections() -> int:
    """Half of the file descriptors: the other half is for containers, which need some each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(MIN_CONNECTIONS, hard // 2)


class _Clients:
    """Every open connection, each a task; more than `room` are refused so that these go on being served."""

    def __init__(self, router: Router, room: int) -> None:
        self._router = router
        self._room = room
        self._serving: set[asyncio.Task[None]] = set()
        self._refusing: set[asyncio.Task[None]] = set()
        self._headers = common_headers(__version__)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        full = len(self._serving) >= self._room
        tasks = self._refusing if full else self._serving
        if full and len(self._refusing) >= MAX_REFUSING:
            writer.close()
            return
        tasks.add(task)
        try:
            if full:
                message = f"too many connections: Wherry serves {self._room} at once; close some and try again"
                await refuse_connection(reader, writer, self._headers, message)
            else:
                await serve_connection(self._router, reader, writer, self._headers)
        except asyncio.CancelledError:
            pass  # only `drop_all` cancels; asyncio 3.11 logs a cancelled handler as an error
        finally:
            tasks.discard(task)

    async def drop_all(self) -> None:
        tasks = [*self._serving, *self._refusing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _listening(host: Host, clients: _Clients, group: int) -> AsyncIterator[None]:
    if isinstance(host, UnixHost):
        listener = _listen(host.path, group)
        server = await asyncio.start_unix_server(clients.connected, sock=listener, backlog=BACKLOG)
    else:
        server = await _listen_tcp(host, clients)
    try:
        yield
    finally:
        server.close()
        if isinstance(host, UnixHost):
            host.path.unlink(missing_ok=True)


async def _listen_tcp(host: TcpHost, clients: _Clients) -> asyncio.Server:
    connected = functools.partial(terminate, host.tls, clients.connected)
    try:
        return await asyncio.start_server(connected, host.address, host.port, backlog=BACKLOG)
    except OSError as error:
        raise SystemFault(f"cannot listen on {host}: {error.strerror or error}; give another --host") from None


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

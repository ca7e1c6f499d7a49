"""/containers/{id}/logs, attach and resize: see the Engine API, "Container"."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from runtime.api import stream, websocket, wire
from runtime.api.http1 import Answer, Hijacked, Request, StreamResponse
from runtime.api.router import Route, empty_response
from runtime.engine.container import Container
from runtime.engine.engine import Engine
from runtime.engine.logs import LogQuery
from runtime.engine.stdio import Listener
from runtime.errors import Conflict, InvalidParameter

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


async def resize(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    engine.containers.resize(container, *read_size(request))
    return empty_response(200)


def read_size(request: Request) -> tuple[int, int]:
    """Rows and columns of a resize request; raises InvalidParameter."""
    rows, columns = request.query.number("h"), request.query.number("w")
    if rows is None or columns is None or not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise InvalidParameter("invalid size: h and w are numbers of rows and columns below 65536")
    return rows, columns


async def logs(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    query = request.query
    wanted = LogQuery(
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        since_ns=wire.parse_timestamp(query.text("since") or "0"),
        until_ns=wire.parse_timestamp(query.text("until") or "0"),
        tail=_tail(query.text("tail")),
        timestamps=query.flag("timestamps"),
        details=query.flag("details"),
        follow=query.flag("follow"),
    )
    if not (wanted.stdout or wanted.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    tty = container.options.tty
    chunks = engine.containers.read_log(container, wanted, stream.render_raw if tty else stream.render_frames)
    return StreamResponse(chunks, headers={"Content-Type": stream.content_type(tty, request.api_version)})


def _tail(text: str) -> int | None:
    """A number of lines; all of them for anything else, as in Docker."""
    return int(text) if text.isascii() and text.isdigit() else None


async def attach(engine: Engine, request: Request) -> Answer:
    container = _attachable(engine, request)

    async def open_raw() -> Client:
        kind = stream.content_type(container.options.tty, request.api_version)
        first, reader, writer = await request.hijack(kind)
        return Client(first, reader, writer, writer, framed=not container.options.tty)

    return await _attach(engine, request, container, open_raw)


async def attach_by_websocket(engine: Engine, request: Request) -> Answer:
    """As attach, in binary frames (text ones before API 1.28); output streams are not told apart."""
    container = _attachable(engine, request)
    head = websocket.handshake(request.headers)

    async def open_socket() -> Client:
        first, reader, writer = await request.take_over(head)
        opcode = websocket.BINARY if request.api_version >= (1, 28) else websocket.TEXT
        socket = websocket.WebSocket(first, reader, writer, opcode)
        return Client(b"", socket, socket, writer, framed=False, talks=True, say_goodbye=socket.close)

    return await _attach(engine, request, container, open_socket)


@dataclass(frozen=True)
class Client:
    """Whoever is attached: where its bytes come from and go to. `first` is input that was read already."""

    first: bytes
    source: stream.ByteSource
    sink: stream.ByteSink
    writer: asyncio.StreamWriter
    framed: bool
    talks: bool = False  # its protocol has to be answered, whether or not there is input
    say_goodbye: Callable[[], None] = lambda: None


def _attachable(engine: Engine, request: Request) -> Container:
    container = engine.containers.get(request.params["id"])
    if container.state.status == "paused":
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    if container.state.status == "restarting":
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")
    return container


async def _attach(
    engine: Engine, request: Request, container: Container, open_client: Callable[[], Awaitable[Client]]
) -> Answer:
    query = request.query
    keys = stream.parse_detach_keys(query.text("detachKeys") or DEFAULT_DETACH_KEYS)
    stdout, stderr = query.flag("stdout"), query.flag("stderr")
    tty = container.options.tty
    listener = engine.containers.listen(container)
    try:
        if query.flag("logs"):
            engine.containers.check_log_readable(container)
        client = await open_client()
        await stream.until_taken(client.writer)
        if query.flag("logs"):
            render = stream.render_frames if client.framed else stream.render_raw
            past = engine.containers.read_log(container, LogQuery(stdout=stdout, stderr=stderr), render)
            async for chunk in past:
                client.sink.write(chunk)
                await client.sink.drain()
        engine.containers.publish(container, "attach")
        if query.flag("stream"):
            output = stream.send_output(listener, client.sink, tty=not client.framed, stdout=stdout, stderr=stderr)
            feed: Coroutine[Any, Any, bool] | None = None
            if query.flag("stdin") and container.options.open_stdin:
                feed = _feed(engine, container, client, keys if tty else b"")
            elif client.talks:
                feed = _listen_only(client)
            if await carry(output, feed, client.writer, listener):
                engine.containers.publish(container, "detach")
        client.say_goodbye()
    finally:
        listener.close()
    return Hijacked()


async def _feed(engine: Engine, container: Container, client: Client, keys: bytes) -> bool:
    """Client to process; waits for the start when the client attached before it."""
    if not container.state.has_process and not (await container.next_start()).has_process:
        return False
    stdin = engine.containers.process_of(container).stdio.stdin
    if stdin is None:
        return False
    close_at_end = container.options.stdin_once and not container.options.tty
    return await stream.send_input(client.first, client.source, stdin, stream.DetachKeys(keys), close_at_end)


async def _listen_only(client: Client) -> bool:
    while await client.source.read():
        pass
    return False


async def carry(
    output: Coroutine[Any, Any, None],
    feed: Coroutine[Any, Any, bool] | None,
    writer: asyncio.StreamWriter,
    listener: Listener,
) -> bool:
    """Run both directions until the output ends or the client goes; True when the person detached."""
    sending = asyncio.ensure_future(output)
    feeding = asyncio.ensure_future(feed) if feed is not None else None
    leaving = asyncio.ensure_future(stream.until_hung_up(writer))
    dropping = asyncio.ensure_future(listener.dropped.wait())
    waiting: set[asyncio.Future[Any]] = {task for task in (sending, feeding, leaving, dropping) if task}
    try:
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if feeding in done and feeding and feeding.result():
                return True
            if dropping in done:
                writer.transport.abort()  # what it did not take would keep the connection
                return False
            if sending in done or leaving in done:
                if sending in done:
                    sending.result()
                return False
    except ConnectionError:
        return False
    finally:
        tasks = [task for task in (sending, feeding, leaving, dropping) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


ROUTES: list[Route] = [
    ("GET", "/containers/{id}/logs", logs),
    ("POST", "/containers/{id}/attach", attach),
    ("GET", "/containers/{id}/attach/ws", attach_by_websocket),
    ("POST", "/containers/{id}/resize", resize),
]

"""/containers/{id}/logs, attach and resize: see the Engine API, "Container"."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.api import stream, wire
from runtime.api.http1 import Answer, Hijacked, Request, StreamResponse
from runtime.api.router import Route, empty_response
from runtime.engine.container import Container
from runtime.engine.engine import Engine
from runtime.engine.logs import LogQuery
from runtime.errors import InvalidParameter


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
    container = engine.containers.get(request.params["id"])
    query = request.query
    keys = stream.parse_detach_keys(query.text("detachKeys") or "ctrl-p,ctrl-q")
    past = LogQuery(stdout=query.flag("stdout"), stderr=query.flag("stderr")) if query.flag("logs") else None
    tty = container.options.tty
    listener = engine.containers.listen(container)
    try:
        first, reader, writer = await request.hijack(stream.content_type(tty, request.api_version))
        if past:
            render = stream.render_raw if tty else stream.render_frames
            async for chunk in engine.containers.read_log(container, past, render):
                writer.write(chunk)
                await writer.drain()
        if not query.flag("stream"):
            return Hijacked()
        output = stream.send_output(listener, writer, tty=tty, stdout=query.flag("stdout"), stderr=query.flag("stderr"))
        feed = None
        if query.flag("stdin") and container.options.open_stdin:
            feed = _feed(engine, container, first, reader, keys if tty else b"")
        await carry(output, feed)
    finally:
        listener.close()
    return Hijacked()


async def _feed(engine: Engine, container: Container, first: bytes, reader: asyncio.StreamReader, keys: bytes) -> bool:
    """Client to process; waits for the start when the client attached before it."""
    if not container.state.has_process and not (await container.next_start()).has_process:
        return False
    stdin = engine.containers.process_of(container).stdio.stdin
    if stdin is None:
        return False
    return await stream.send_input(first, reader, stdin, stream.DetachKeys(keys), container.options.stdin_once)


async def carry(output: Any, feed: Any) -> bool:
    """Run both directions until the output ends or the person detaches; whether they did."""
    sending = asyncio.ensure_future(output)
    feeding = asyncio.ensure_future(feed) if feed is not None else None
    try:
        if feeding:
            await asyncio.wait((sending, feeding), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not feeding.cancelled() and feeding.result():
                return True
        await sending
        return False
    except ConnectionError:
        return False
    finally:
        tasks = [task for task in (sending, feeding) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


ROUTES: list[Route] = [
    ("GET", "/containers/{id}/logs", logs),
    ("POST", "/containers/{id}/attach", attach),
    ("POST", "/containers/{id}/resize", resize),
]

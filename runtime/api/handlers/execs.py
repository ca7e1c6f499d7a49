"""/exec and /containers/{id}/exec: see the Engine API, "Exec"."""

from __future__ import annotations

from runtime.api import stream, wire
from runtime.api.handlers.container_streams import DEFAULT_DETACH_KEYS, carry, read_size
from runtime.api.http1 import Answer, Hijacked, Request
from runtime.api.router import Route, empty_response, json_response
from runtime.api.wire import bodies
from runtime.engine.engine import Engine
from runtime.engine.execs import parse_console_size
from runtime.errors import InvalidParameter, WherryError


async def create(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    body = bodies.EXEC_CREATE.read(await request.json())
    try:
        stream.parse_detach_keys(body.get("DetachKeys") or DEFAULT_DETACH_KEYS)
    except InvalidParameter:
        raise InvalidParameter(f"Invalid escape keys ({body['DetachKeys']}) provided") from None
    exec = engine.execs.create(container, body)
    return json_response({"Id": exec.id}, 201)


async def start(engine: Engine, request: Request) -> Answer:
    exec = engine.execs.get(request.params["id"])
    body = bodies.EXEC_START.read(await request.json())
    size = parse_console_size(body)
    if body.get("Detach"):
        await engine.execs.start(exec, size)
        return empty_response(200)
    engine.execs.check_startable(exec)
    plain = bool(body.get("Tty"))  # whether the output is framed is said here, not by the exec's own Tty, as in moby
    listener = exec.hub.listen()
    try:
        first, reader, writer = await request.hijack(stream.content_type(plain, request.api_version))
        try:
            live = await engine.execs.start(exec, size)
        except (WherryError, OSError) as error:
            # The stream is open already: the sentence goes where the output would have gone, as Docker does.
            message = f"{error}\r\n".encode()
            await stream.until_taken(writer)
            writer.write(message if plain else stream.frame(1, message))
            return Hijacked()
        await stream.until_taken(writer)
        keys = stream.parse_detach_keys(exec.detach_keys or DEFAULT_DETACH_KEYS) if exec.tty else b""
        output = stream.send_output(listener, writer, tty=plain, stdout=exec.attach_stdout, stderr=exec.attach_stderr)
        feed = None
        if live.stdio.stdin is not None and exec.open_stdin:
            feed = stream.send_input(first, reader, live.stdio.stdin, stream.DetachKeys(keys), not exec.tty)
        if await carry(output, feed, writer, listener):
            engine.execs.detached(exec)
    finally:
        listener.close()
    return Hijacked()


async def inspect(engine: Engine, request: Request) -> Answer:
    return json_response(wire.exec_inspect(engine.execs.get(request.params["id"])))


async def resize(engine: Engine, request: Request) -> Answer:
    engine.execs.resize(engine.execs.get(request.params["id"]), *read_size(request))
    return empty_response(200)


ROUTES: list[Route] = [
    ("POST", "/containers/{id}/exec", create),
    ("POST", "/exec/{id}/start", start),
    ("GET", "/exec/{id}/json", inspect),
    ("POST", "/exec/{id}/resize", resize),
]

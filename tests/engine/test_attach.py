"""Attach through HTTP and WebSocket: who is told what, and who may leave when."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.api.websocket import unmask
from runtime.engine import stdio
from tests.engine.test_containers import create
from tests.harness import RunningEngine, UnixConnection


@contextmanager
def attached(
    engine: RunningEngine, id: str, query: str, *headers: str, method: str = "POST", to: str = "attach"
) -> Iterator[tuple[socket.socket, bytes]]:
    """The raw connection after the answer's head, and that head."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(engine.socket))
    head = "".join(f"{line}\r\n" for line in (f"{method} /containers/{id}/{to}?{query} HTTP/1.1", "Host: x", *headers))
    connection.sendall(head.encode() + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    try:
        yield connection, answer
    finally:
        connection.close()


def rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_upgrade_or_not(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "echo out; echo err >&2")
    with attached(engine, id, "stream=1&stdout=1") as (plain, head):
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n")
        with attached(engine, id, "stream=1&stderr=1", "Connection: Upgrade", "Upgrade: tcp") as (upgraded, head):
            assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
            engine.post(f"/containers/{id}/start")
            assert rest(plain) == b"\1\0\0\0\0\0\0\4out\n"
            assert rest(upgraded) == b"\2\0\0\0\0\0\0\4err\n"
    with attached(engine, id, "logs=1&stdout=1&stderr=1") as (past, _):
        assert rest(past) == b"\1\0\0\0\0\0\0\4out\n\2\0\0\0\0\0\0\4err\n"


def test_refused(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    assert engine.message("POST", f"/containers/{id}/attach?detachKeys=ctrl-p,nokey") == (
        400,
        "Invalid detach keys (ctrl-p,nokey) provided",
    )
    assert engine.message("GET", f"/containers/{id}/attach/ws")[0] == 400
    engine.post(f"/containers/{id}/pause")
    assert engine.message("POST", f"/containers/{id}/attach?stream=1") == (
        409,
        f"container {id} is paused, unpause the container before attach",
    )
    engine.post(f"/containers/{id}/unpause")
    silent = create(engine, "true", host={"LogConfig": {"Type": "none"}})
    assert engine.message("POST", f"/containers/{silent}/attach?logs=1")[0] == 501


def test_detach_and_its_events(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "cat", Tty=True, OpenStdin=True)
    engine.post(f"/containers/{id}/start")
    events = UnixConnection(engine.socket)
    events.request("GET", f'/events?filters={{"container":["{id}"]}}')
    told = events.getresponse()
    with attached(engine, id, "stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x") as (connection, _):
        connection.sendall(b"keep\x01\x01")  # the second begins the sequence, the first did not
        echo = b""
        while not echo.endswith(b"keep^A"):
            echo += connection.recv(1)
        connection.sendall(b"x")
        assert rest(connection) == b""
    seen = [json.loads(told.readline())["Action"] for _ in range(2)]
    events.close()
    assert seen == ["attach", "detach"]
    assert engine.get(f"/containers/{id}/json")["State"]["Running"]


def test_a_client_that_leaves_is_forgotten(engine: RunningEngine) -> None:
    """Also one that had closed its sending side before, as the CLI does, and while nothing is written."""
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    descriptors = Path(f"/proc/{engine.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(10):
        with attached(engine, id, "stream=1&stdout=1") as (connection, _head):
            connection.shutdown(socket.SHUT_WR)
    for _ in range(200):
        if len(list(descriptors.iterdir())) <= before:
            break
        engine.request("GET", "/_ping")
    assert len(list(descriptors.iterdir())) <= before


def test_many_clients_see_the_same(engine: RunningEngine) -> None:
    id = create(engine, "cat", OpenStdin=True, StdinOnce=True)
    seen: list[bytes] = []
    ready = threading.Barrier(6)

    def watch() -> None:
        with attached(engine, id, "stream=1&stdout=1") as (connection, _):
            ready.wait()
            seen.append(rest(connection))

    watchers = [threading.Thread(target=watch) for _ in range(5)]
    for watcher in watchers:
        watcher.start()
    with attached(engine, id, "stream=1&stdin=1&stdout=1") as (connection, _):
        ready.wait()
        engine.post(f"/containers/{id}/start")
        connection.sendall(b"shared\n")
        connection.shutdown(socket.SHUT_WR)
        seen.append(rest(connection))
    for watcher in watchers:
        watcher.join()
    assert [frame[8:] for frame in seen] == [b"shared\n"] * 6


def test_a_hundred_megabytes(engine: RunningEngine) -> None:
    data = os.urandom(1 << 20) * 100
    done = engine.docker("run", "--rm", "-i", "--log-driver", "none", "busybox", "cat", input=data)
    assert done.stdout == data
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 150_000


# --- WebSocket


def frame(opcode: int, data: bytes, final: bool = True, masked: bool = True) -> bytes:
    mask = os.urandom(4) if masked else b""
    size = bytes([len(data)]) if len(data) < 126 else struct.pack(">BH", 126, len(data))
    size = bytes([size[0] | (0x80 if masked else 0)]) + size[1:]
    return bytes([opcode | (0x80 if final else 0)]) + size + mask + (unmask(data, mask) if masked else data)


def receive(connection: socket.socket) -> tuple[int, bytes]:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = connection.recv(size - len(data))
            assert part
            data += part
        return data

    first, size = exactly(2)
    assert first & 0x80 and not size & 0x80
    if size == 126:
        (size,) = struct.unpack(">H", exactly(2))
    return first & 0x0F, exactly(size)


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY)


def test_websocket(engine: RunningEngine) -> None:
    id = create(engine, "cat", OpenStdin=True)
    engine.post(f"/containers/{id}/start")
    with attached(engine, id, "stream=1&stdin=1&stdout=1", *UPGRADE, method="GET", to="attach/ws") as (ws, head):
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 §1.3
        ws.sendall(frame(2, b"hel", final=False) + frame(9, b"are you there") + frame(0, b"lo\n"))
        seen = {receive(ws)}
        while (2, b"hello\n") not in seen:
            opcode, data = receive(ws)
            seen.add((2, b"hello\n") if data == b"lo\n" else (opcode, data))
        assert (10, b"are you there") in seen
        ws.sendall(frame(1, b"x" * 999 + b"\n"))
        data = b""
        while len(data) < 1000:
            data += receive(ws)[1]
        assert data == b"x" * 999 + b"\n"
        ws.sendall(frame(8, struct.pack(">H", 1000)))
        assert receive(ws) == (8, struct.pack(">H", 1000))
    with attached(engine, id, "stream=1&stdin=1&stdout=1", *UPGRADE, method="GET", to="attach/ws") as (ws, _):
        ws.sendall(frame(2, b"unmasked", masked=False))
        assert receive(ws) == (8, struct.pack(">H", 1002))
    with attached(engine, id, "stream=1&stdout=1", *UPGRADE, method="GET", to="attach/ws") as (ws, _):
        engine.post(f"/containers/{id}/kill")
        assert receive(ws) == (8, struct.pack(">H", 1000))


# --- clients that stop reading


def test_a_stalled_client_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container waits for it, but not for ever; the others get everything."""
    monkeypatch.setattr(stdio, "STALLED_S", 0.05)

    async def work() -> tuple[int, bool]:
        hub = stdio.OutputHub()
        read_end, write_end = os.pipe()
        streams = stdio.Stdio(stdio.discard, hub, {1: read_end})
        stalled, quick = hub.listen(), hub.listen()
        writing = asyncio.to_thread(lambda: [os.write(write_end, bytes(1 << 16)) for _ in range(64)])
        writer = asyncio.ensure_future(writing)
        writer.add_done_callback(lambda _: os.close(write_end))
        taken = 0
        async for _, data in quick:
            taken += len(data)
            if taken == 64 << 16:
                break
        await writer
        await streams.drained
        return taken, stalled.dropped.is_set()

    assert asyncio.run(work()) == (64 << 16, True)

"""The event bus: what is replayed, what is filtered, and what happens to readers that do not read."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from runtime.api.handlers import system
from runtime.api.http1 import Answer, Request, serve_connection
from runtime.engine import events as events_module
from runtime.engine.event_filter import wanted
from runtime.engine.events import HISTORY, MAX_BEHIND, Event, EventBus

HOUR_NS = 3600 * 10**9


async def collect(bus: EventBus, since_ns: int | None = None, until_ns: int | None = None) -> list[str]:
    return [event.action async for batch in bus.listen(since_ns, until_ns).batches() for event in batch]


def test_replay() -> None:
    async def run() -> None:
        bus = EventBus()
        for second in range(1, 6):
            bus.publish(Event("container", str(second), "id", time_ns=second * 10**9))
        assert await collect(bus, until_ns=10**10) == ["1", "2", "3", "4", "5"]
        assert await collect(bus, 2 * 10**9, 4 * 10**9) == ["2", "3", "4"]
        assert await collect(bus, 6 * 10**9, 7 * 10**9) == []
        assert bus.listeners == 0

    asyncio.run(run())


def test_until_in_the_future() -> None:
    async def run() -> None:
        bus = EventBus()
        bus.publish(Event("container", "before", "id"))
        listening = asyncio.create_task(collect(bus, 0, time.time_ns() + 10**8))
        await asyncio.sleep(0)
        bus.publish(Event("container", "meanwhile", "id"))
        async with asyncio.timeout(5):
            assert await listening == ["before", "meanwhile"]

    asyncio.run(run())


def test_a_clock_that_jumps_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events keep the clock's times, `since` finds them all, and a wait that has begun ends when it should."""

    async def run() -> None:
        bus = EventBus()
        start_ns = time.time_ns()
        bus.publish(Event("container", "first", "id", time_ns=start_ns))
        listening = asyncio.create_task(collect(bus, start_ns, start_ns + 2 * 10**8))
        await asyncio.sleep(0)
        monkeypatch.setattr(events_module.time, "time_ns", lambda: start_ns - HOUR_NS)
        bus.publish(Event("container", "an hour earlier", "id", time_ns=start_ns - HOUR_NS))
        bus.publish(Event("container", "second", "id", time_ns=start_ns))
        async with asyncio.timeout(5):
            assert await listening == ["first", "an hour earlier", "second"]
        assert [event.action for event in bus.listen(start_ns)._events] == ["first", "second"]

    asyncio.run(run())


def test_a_reader_too_far_behind_is_dropped_and_others_are_not() -> None:
    async def run() -> None:
        bus = EventBus()
        idle, reading = bus.listen(), bus.listen()
        batches, seen = reading.batches(), 0
        for number in range(2 * MAX_BEHIND):
            bus.publish(Event("container", str(number), "id"))
            if number % 1000 == 999:
                seen += len(await anext(batches))
        assert idle.dropped.done() and not reading.dropped.done()
        assert len(idle._events) == 0 and bus.listeners == 1
        assert [batch async for batch in idle.batches()] == []
        assert seen >= 2 * MAX_BEHIND - 1000
        assert len(bus._history) == HISTORY

    asyncio.run(run())


def test_a_listener_nobody_reads_is_forgotten() -> None:
    async def run() -> None:
        bus = EventBus()
        bus.listen()
        gc.collect()
        assert bus.listeners == 0

    asyncio.run(run())


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def run() -> None:
        engine = SimpleNamespace(events=EventBus())

        async def handler(request: Request) -> Answer:
            return await system.events(engine, request)  # type: ignore[arg-type]

        ours, theirs = socket.socketpair()
        streams = await asyncio.open_connection(sock=theirs)
        serving = asyncio.ensure_future(serve_connection(handler, *streams, []))
        with ours:
            ours.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(20):
                while not serving.done():
                    engine.events.publish(Event("container", "start", "x" * 64))
                    await asyncio.sleep(0)
        assert engine.events.listeners == 0

    asyncio.run(run())


CREATE = Event("container", "create", "c0ffee", {"image": "busybox:latest", "name": "web", "tier": "front", "a": "b"})
EXEC = Event("container", "exec_create: ls -l", "c0ffee", {"image": "busybox", "name": "web"})
HEALTH = Event("container", "health_status: healthy", "c0ffee", {"image": "busybox", "name": "web"})
CONNECT = Event("network", "connect", "ne700", {"container": "c0ffee", "name": "backend", "type": "bridge"})
PULL = Event("image", "pull", "example.test/team/box:1", {"name": "example.test/team/box"})
MOUNT = Event("volume", "mount", "data", {"driver": "local"})
ALL = [CREATE, EXEC, HEALTH, CONNECT, PULL, MOUNT]

FILTERS: list[tuple[dict[str, list[str]], list[Event]]] = [
    ({"type": ["container"]}, [CREATE, EXEC, HEALTH]),
    ({"type": ["network", "volume"]}, [CONNECT, MOUNT]),
    ({"event": ["create"]}, [CREATE]),
    ({"event": ["create", "connect"]}, [CREATE, CONNECT]),
    ({"event": ["exec_create"]}, [EXEC]),
    ({"event": ["exec_create: ls -l"]}, [EXEC]),
    ({"event": ["health_status"]}, [HEALTH]),
    ({"event": ["health_status: unhealthy"]}, []),
    ({"event": ["creat"]}, []),
    ({"container": ["web"]}, [CREATE, EXEC, HEALTH]),
    ({"container": ["c0f"]}, [CREATE, EXEC, HEALTH]),
    ({"container": ["other"]}, []),
    ({"network": ["backend"]}, [CONNECT]),
    ({"volume": ["data"]}, [MOUNT]),
    ({"image": ["busybox"]}, [CREATE, EXEC, HEALTH]),
    ({"image": ["busybox:latest"]}, [CREATE]),
    ({"image": ["example.test/team/box"]}, [PULL]),
    ({"label": ["tier"]}, [CREATE]),
    ({"label": ["tier=front", "a=b"]}, [CREATE]),
    ({"label": ["tier=front", "a=c"]}, []),
    ({"scope": ["local"]}, ALL),
    ({"scope": ["swarm"]}, []),
    ({"daemon": ["host"]}, []),
    ({"plugin": ["x"], "type": ["container"]}, []),
    ({"node": ["x"]}, []),
    ({"service": ["x"]}, []),
    ({"type": ["container"], "event": ["create"], "image": ["busybox"]}, [CREATE]),
]


@pytest.mark.parametrize("filters, expected", FILTERS, ids=[str(case[0]) for case in FILTERS])
def test_filters(filters: dict[str, list[str]], expected: list[Event]) -> None:
    test: Callable[[Event], bool] | None = wanted(filters)
    assert test is not None
    assert [event for event in ALL if test(event)] == expected


def test_no_filters() -> None:
    assert wanted({}) is None
    assert wanted({"colour": ["red"]}) is None, "moby reads over filters it does not know"

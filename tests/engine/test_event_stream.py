"""/events: replay, ends, crowds, and readers that do not read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
import signal
import socket
import time
from typing import Any
from urllib.parse import urlencode

from tests.engine.test_containers import create
from tests.harness import RunningEngine, UnixConnection

CROWD = 500
EVENTS = 1200


def events(engine: RunningEngine, **query: Any) -> list[dict[str, Any]]:
    if "filters" in query:
        query["filters"] = json.dumps(query["filters"])
    status, body = engine.request("GET", f"/events?{urlencode(query)}")
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def test_replay_of_a_containers_life(engine: RunningEngine) -> None:
    since = time.time()
    id = create(engine, "true", name="eventful", Labels={"colour": "red"})
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/wait", expect=200)
    engine.request("DELETE", f"/containers/{id}")
    now = time.time()
    seen = events(engine, since=since, until=now, filters={"type": ["container"]})
    assert [event["Action"] for event in seen] == ["create", "start", "die", "destroy"]
    die = seen[2]
    assert die["Actor"]["ID"] == id == die["id"]
    assert die["Actor"]["Attributes"].items() >= {
        ("image", "busybox"),
        ("name", "eventful"),
        ("exitCode", "0"),
        ("colour", "red"),
    }
    assert (die["status"], die["from"], die["scope"], die["Type"]) == ("die", "busybox", "local", "container")
    assert die["timeNano"] // 10**9 == die["time"]
    for filters, expected in [
        ({"container": ["eventful"], "event": ["start"]}, ["start"]),
        ({"label": ["colour=red"], "event": ["create", "die"]}, ["create", "die"]),
        ({"label": {"colour=blue": True}}, []),
        ({"image": ["busybox"], "container": [id[:5]], "event": ["destroy"]}, ["destroy"]),
    ]:
        found = events(engine, since=since, until=now, filters=filters)
        assert [event["Action"] for event in found] == expected, filters


def test_the_engine_itself(engine: RunningEngine) -> None:
    since = time.time()
    engine.process.send_signal(signal.SIGHUP)
    seen = events(engine, since=since, until=time.time() + 0.5, filters={"type": ["daemon"]})
    assert [(event["Type"], event["Action"]) for event in seen] == [("daemon", "reload")]
    assert engine.process.poll() is None


def test_ends_of_the_wait(engine: RunningEngine) -> None:
    before = time.monotonic()
    events(engine, until=time.time() + 0.3)
    assert 0.2 < time.monotonic() - before < 5
    assert events(engine, since=0, until=1) == []
    status, message = engine.message("GET", "/events?since=20&until=10")
    assert (status, message) == (400, "`since` time (20) cannot be after `until` time (10)")
    assert engine.message("GET", "/events?since=yesterday")[0] == 400
    assert engine.message("GET", "/events?filters=%5B1%5D")[0] == 400


class Reader:
    """A client of /events that takes what has come when it is asked; HTTP/1.0, so that nothing is chunked."""

    def __init__(self, engine: RunningEngine) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(engine.socket))
        filters = urlencode({"filters": json.dumps({"event": ["kill"]})})
        self.socket.sendall(f"GET /events?{filters} HTTP/1.0\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        self.seen, self.digest = 0, hashlib.sha256()

    def take(self) -> int:
        """How many events have come."""
        data = self.socket.recv(1 << 20)
        self.seen += data.count(b"\n")
        self.digest.update(data)
        return self.seen

    def close(self) -> None:
        self.socket.close()


class Signals:
    """Makes events as quickly as may be: signals that do nothing, over one connection."""

    def __init__(self, engine: RunningEngine) -> None:
        self._id = create(engine, "sleep", "600")
        engine.post(f"/containers/{self._id}/start")
        self._connection = UnixConnection(engine.socket)

    def send(self) -> None:
        self._connection.request("POST", f"/containers/{self._id}/kill?signal=CONT")
        assert self._connection.getresponse().read() == b""

    def close(self) -> None:
        self._connection.close()


def test_a_crowd_loses_nothing(engine: RunningEngine) -> None:
    """Thousands of events, hundreds of readers: each gets all, in order, while the engine goes on answering."""
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(Reader(engine))) for _ in range(CROWD)]
        assert engine.get("/info")["NEventsListener"] >= CROWD
        signals = stack.enter_context(contextlib.closing(Signals(engine)))
        slowest_s = 0.0
        for _ in range(EVENTS):
            before = time.monotonic()
            signals.send()
            slowest_s = max(slowest_s, time.monotonic() - before)
        waiting = {reader.socket.fileno(): reader for reader in readers}
        poll = select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        while waiting:
            ready = poll.poll(20_000)
            assert ready, f"{len(waiting)} readers still wait"
            for fd, _ in ready:
                if waiting[fd].take() == EVENTS:
                    poll.unregister(fd)
                    del waiting[fd]
        assert len({reader.digest.digest() for reader in readers}) == 1
        assert slowest_s < 5

"""Looking at a container from outside: its state, its story in events, and waiting for either to change."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.harness import RunningEngine, UnixConnection

PATIENCE_S = 20


def state(engine: RunningEngine, id: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.get(f"/containers/{id}/json")["State"]
    return found


def story(engine: RunningEngine, id: str) -> list[str]:
    """The container's events so far."""
    return [event["Action"] for event in events(engine, id)]


def events(engine: RunningEngine, id: str) -> list[dict[str, Any]]:
    filters = json.dumps({"type": ["container"], "container": [id]}).replace(" ", "")
    status, raw = engine.request("GET", f"/events?since=1&until={time.time():.6f}&filters={filters}")
    assert status == 200, raw
    return [json.loads(line) for line in raw.splitlines()]


def wait_for_event(engine: RunningEngine, id: str, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> None:
    """Until that many events, past ones counted, are as wanted."""
    filters = json.dumps({"type": ["container"], "container": [id]}).replace(" ", "")
    connection = UnixConnection(engine.socket, PATIENCE_S)
    connection.request("GET", f"/events?since=1&filters={filters}")
    try:
        for line in connection.getresponse():
            count -= bool(wanted(json.loads(line)))
            if not count:
                return
    finally:
        connection.close()
    raise AssertionError("the stream of events ended")


def wait_for_action(engine: RunningEngine, id: str, action: str, count: int = 1) -> None:
    wait_for_event(engine, id, lambda event: event["Action"] == action, count)


def status_text(engine: RunningEngine, id: str) -> str:
    filters = json.dumps({"id": [id]}).replace(" ", "")
    return str(engine.get(f"/containers/json?all=1&filters={filters}")[0]["Status"])

"""kill -9 of the engine, the launcher or both, at random points, while clients create, start, read and remove.

What must hold at the end: no container lost or twice there, every exit code right or said to be unknown, every
line that a container wrote in its log once and in order, the store whole, nothing left behind.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.test_survival import wait_for
from tests.harness import RunningEngine

KILLS = 200
CLIENTS = 3
LINES = 20
SEED = 20260
SCRIPT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; exit $0"
PATIENCE_S = 30


@dataclass
class Ledger:
    """What one client has been told, and what it has found wrong."""

    lives: int = 0
    unknown_codes: int = 0
    wrong: list[str] = field(default_factory=list)


class Client(threading.Thread):
    """Lives of containers one after the other, through an engine that goes away at any moment."""

    def __init__(self, engine: RunningEngine, number: int, stopping: threading.Event) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.ledger = Ledger()
        self._engine = engine
        self._number = number
        self._stopping = stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._life(f"client-{self._number}-{self.ledger.lives}", 1 + self.ledger.lives % 100)
            except Exception as error:  # noqa: BLE001 - shown by the test, which runs in another thread
                self.ledger.wrong.append(repr(error))
                return
            self.ledger.lives += 1

    def _life(self, name: str, code: int) -> None:
        config = {"Image": "busybox", "Cmd": ["sh", "-c", SCRIPT, str(code)], "HostConfig": {"NetworkMode": "none"}}
        status = self._ask("POST", f"/containers/create?name={name}", config)[0]
        assert status in (201, 409), status  # 409: made, but the answer was lost
        while (answer := self._ask("POST", f"/containers/{name}/start"))[0] not in (204, 304):
            assert answer[0] in (500, 503), answer  # the launcher has gone away under it
        self._ask("POST", f"/containers/{name}/wait")
        state = json.loads(self._ask("GET", f"/containers/{name}/json")[1])["State"]
        if "unknown" in state["Error"]:
            self.ledger.unknown_codes += 1
        elif state["ExitCode"] != code:
            self.ledger.wrong.append(f"{name}: exit code {state['ExitCode']} instead of {code}")
        else:
            self._check_log(name)
        while self._ask("DELETE", f"/containers/{name}?force=1")[0] not in (204, 404):
            pass

    def _check_log(self, name: str) -> None:
        """Whole runs, one for each start that was answered or lost its answer; of one that was undone the beginning."""
        said = self._ask("GET", f"/containers/{name}/logs?stdout=1")[1]
        numbers = [int(line.split()[-1]) for line in said.splitlines()]
        starts = [place for place, number in enumerate(numbers) if number == 0]
        runs = [numbers[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if not runs or len(runs[-1]) < LINES or any(run != [*range(len(run))] for run in runs):
            self.ledger.wrong.append(f"{name}: log {numbers}")

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Ask until there is an answer."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._engine.request(method, path, body)
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline, f"no answer to {method} {path}"
                time.sleep(0.005)


def kill(engine: RunningEngine, what: str) -> None:
    launcher = engine.launcher_pid() if what != "engine" else 0
    if what != "launcher":
        engine.kill()
    if launcher:
        os.kill(launcher, signal.SIGKILL)
        wait_for(launcher)


@pytest.mark.timeout(600)
def test_two_hundred_kills_under_load(new_engine: NewEngine) -> None:
    engine = new_engine()
    chance = random.Random(SEED)
    stopping = threading.Event()
    clients = [Client(engine, number, stopping) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 0.15))  # the moment is what is being varied
        what = chance.choices(("engine", "launcher", "both"), (3, 1, 1))[0]
        try:
            kill(engine, what)
        except AssertionError:
            pass  # the engine has not made its new launcher yet
        if engine.process.poll() is not None:
            engine.restart()
    stopping.set()
    for client in clients:
        client.join(PATIENCE_S * 2)
    assert [wrong for client in clients for wrong in client.ledger.wrong] == []
    assert sum(client.ledger.lives for client in clients) > KILLS / 4
    assert engine.get("/containers/json?all=1") == []
    engine.stop()
    store = sqlite3.connect(engine.data_root / "engine.db")
    assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    assert not list((engine.data_root / "containers").iterdir())
    engine.restart()

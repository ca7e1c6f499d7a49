"""Clients that keep an engine busy while it, its launcher or both are killed: each knows what it must find."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.harness import RunningEngine

LINES = 20
SCRIPT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done"
PATIENCE_S = 180  # an engine that is killed again and again on a busy machine answers seldom
GONE_AWAY = (500, 503)  # what a start answers when the launcher goes away under it
UNKNOWN_CODES = (None, 126, 255)  # of an exec: not started, or its launcher was killed
EXEC_CODE = 7

Configure = Callable[[str], dict[str, Any]]


@dataclass
class Ledger:
    """What one client has been told, and what it has found wrong."""

    lives: int = 0
    unknown_codes: int = 0
    wrong: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)  # containers that have said that they ended well


class Client(threading.Thread):
    """Does one thing after the other, through an engine that goes away at any moment."""

    def __init__(self, engine: RunningEngine, name: str, stopping: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.ledger = Ledger()
        self._engine = engine
        self._stopping = stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.once(f"{self.name}-{self.ledger.lives}")
            except Exception as error:  # noqa: BLE001 - shown by the test, which runs in another thread
                self.ledger.wrong.append(f"{self.name}: {error!r}")
                return
            self.ledger.lives += 1

    def once(self, name: str) -> None:
        raise NotImplementedError

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Ask until there is an answer."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._engine.request(method, path, body)
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline, f"no answer to {method} {path}"
                time.sleep(0.02)


class Lives(Client):
    """Containers made, started, waited for, read and removed; `configure(name)` adds to what they are made of."""

    def __init__(
        self, engine: RunningEngine, name: str, stopping: threading.Event, configure: Configure = lambda name: {}
    ) -> None:
        super().__init__(engine, name, stopping)
        self._configure = configure

    def once(self, name: str) -> None:
        code = 1 + self.ledger.lives % 100
        config = {"Image": "busybox", "Cmd": ["sh", "-c", f"{SCRIPT}; exit $0", str(code)]}
        status, answer = self.ask("POST", f"/containers/create?name={name}", config | self._configure(name))
        assert status in (201, 409), (status, answer)  # 409: made, but the answer was lost
        while (started := self.ask("POST", f"/containers/{name}/start"))[0] not in (204, 304):
            assert started[0] in GONE_AWAY, started
        self.ask("POST", f"/containers/{name}/wait")
        state = json.loads(self.ask("GET", f"/containers/{name}/json")[1])["State"]
        if "unknown" in state["Error"]:
            self.ledger.unknown_codes += 1
        elif state["ExitCode"] != code:
            self.ledger.wrong.append(f"{name}: exit code {state['ExitCode']} instead of {code}: {state}")
        else:
            self.ledger.finished.append(name)
            self._check_log(name)
        while (removed := self.ask("DELETE", f"/containers/{name}?force=1"))[0] not in (204, 404):
            assert removed[0] in GONE_AWAY, removed

    def _check_log(self, name: str) -> None:
        """Whole runs, one for each start that was answered or lost its answer; of one that was undone the beginning."""
        said = self.ask("GET", f"/containers/{name}/logs?stdout=1")[1]
        numbers = [int(line.split()[-1]) for line in said.splitlines()]
        starts = [place for place, number in enumerate(numbers) if number == 0]
        runs = [numbers[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if not runs or len(runs[-1]) < LINES or any(run != [*range(len(run))] for run in runs):
            self.ledger.wrong.append(f"{name}: log {numbers}")


class Execs(Client):
    """Commands in one container that runs on. An engine that comes back knows nothing of them: 404."""

    def __init__(self, engine: RunningEngine, name: str, stopping: threading.Event, container: str) -> None:
        super().__init__(engine, name, stopping)
        self._container = container

    def once(self, name: str) -> None:
        config = {"Cmd": ["sh", "-c", f"echo {name}; exit {EXEC_CODE}"], "AttachStdout": True}
        status, answer = self.ask("POST", f"/containers/{self._container}/exec", config)
        assert status == 201, (status, answer)
        path = f"/exec/{json.loads(answer)['Id']}"
        status, said = self.ask("POST", f"{path}/start", {"Detach": False})
        # 409: started, but the answer was lost.
        assert status in (200, 404, 409, *GONE_AWAY), (status, said)
        found, answer = self.ask("GET", f"{path}/json")
        if status != 200 or found == 404:
            return
        state = json.loads(answer)
        code = state["ExitCode"]
        if state["Running"] or code not in (EXEC_CODE, *UNKNOWN_CODES):
            self.ledger.wrong.append(f"{name}: {state}")
        elif code == EXEC_CODE:
            self.ledger.finished.append(name)
            if said[8:] != f"{name}\n".encode():
                self.ledger.wrong.append(f"{name}: it said {said!r}")

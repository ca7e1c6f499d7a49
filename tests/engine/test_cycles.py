"""A thousand lives leave an engine as it was: descriptors, memory, threads, and everything in the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.harness import RunningEngine, UnixConnection

CYCLES = 1000
WARM_UP = 100  # caches fill, pools grow to their size
RSS_GROWTH_BYTES = 5 << 20
SETTLE_S = 10
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)  # asyncio's, made when that many had to work at once


class KeptConnection:
    """One connection for a thousand lives, as an SDK keeps it."""

    def __init__(self, engine: RunningEngine) -> None:
        self._connection = UnixConnection(engine.socket)

    def ask(self, method: str, path: str, body: Any, expect: int) -> Any:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == expect, (method, path, answer.status, text)
        return json.loads(text) if text.strip() else None

    def close(self) -> None:
        self._connection.close()


def live(client: KeptConnection) -> None:
    config = {"Image": "busybox", "Cmd": ["sleep", "60"], "StopSignal": "SIGKILL"}
    id = client.ask("POST", "/containers/create", config | {"HostConfig": {"PortBindings": {"80/tcp": [{}]}}}, 201)[
        "Id"
    ]
    client.ask("POST", f"/containers/{id}/start", None, 204)
    exec_id = client.ask("POST", f"/containers/{id}/exec", {"Cmd": ["true"]}, 201)["Id"]
    client.ask("POST", f"/exec/{exec_id}/start", {"Detach": True}, 200)
    client.ask("POST", f"/containers/{id}/stop", None, 204)
    client.ask("DELETE", f"/containers/{id}", None, 204)


def picture(engine: RunningEngine) -> dict[str, Any]:
    """Counts of all that must not grow; the kernel's own clean-up is given a moment by whoever compares."""
    processes = {"engine": engine.process.pid, "launcher": engine.launcher_pid()}
    children = Path("/proc/{launcher}/task/{launcher}/children".format(**processes))
    run = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return {
        **{f"{name} fds": len(os.listdir(f"/proc/{pid}/fd")) for name, pid in processes.items()},
        "engine threads": max(0, threads(processes["engine"]) - POOL_THREADS),
        "launcher threads": threads(processes["launcher"]),
        **{f"{name} mounts": Path(f"/proc/{pid}/mountinfo").read_text().count("\n") for name, pid in processes.items()},
        "children": len(children.read_text().split()),
        "cgroups": sorted(Path("/sys/fs/cgroup").glob(f"*/wherry-{engine.instance}/*")),
        "rules": run.stdout.count("\n"),
        "links": links.stdout.count("\n"),
        "directories": sum(
            1 for name in ("containers", "snapshots", "volumes") for _ in (engine.data_root / name).iterdir()
        ),
    }


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(600)
def test_a_thousand_lives_leave_nothing(new_engine: NewEngine) -> None:
    engine = new_engine()
    with contextlib.closing(KeptConnection(engine)) as client:
        for _ in range(WARM_UP):
            live(client)
        before = settled(engine, None)
        memory = {pid: rss_bytes(pid) for pid in (engine.process.pid, engine.launcher_pid())}
        for _ in range(CYCLES):
            live(client)
        assert settled(engine, before) == before
    for pid, bytes_before in memory.items():
        assert rss_bytes(pid) - bytes_before < RSS_GROWTH_BYTES


def settled(engine: RunningEngine, wanted: dict[str, Any] | None) -> dict[str, Any]:
    """The picture once it is as wanted, or no longer changes, or has had its time."""
    deadline = time.monotonic() + SETTLE_S
    last = picture(engine)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = picture(engine)
        if now == (last if wanted is None else wanted):
            return now
        last = now
    return last

"""kill -9 of the engine, the launcher or both, at random points, while clients create, start, read and remove.

What must hold at the end: no container lost or twice there, every exit code right or said to be unknown, every
line that a container wrote in its log once and in order, what runs still reached by its port and its name, what is
to be restarted restarted, the store whole, nothing left behind.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.kill_load import PATIENCE_S, Client, Execs, Lives
from tests.engine.test_containers import create, run
from tests.engine.test_survival import wait_for
from tests.harness import RunningEngine

KILLS = 200
KILLS_IN_A_ROW = 4
SEED = int(os.environ.get("WHERRY_KILL_SEED", "20260"))
ONLY_ONE_PORT = 39517  # of the host: two that listen on it at once cannot be
# Fails at once when another instance of it lives, and says so; is ended by `timeout` else.
RESTARTED = (
    "echo >> /notes/starts; "
    f"timeout -s KILL 0.1 httpd -f -p 127.0.0.1:{ONLY_ONE_PORT}; "
    "[ $? = 137 ] || echo >> /notes/twice; exit 1"
)


def kill(engine: RunningEngine, what: str) -> None:
    launcher = engine.launcher_pid() if what != "engine" else 0
    if what != "launcher":
        engine.kill()
    if launcher:
        os.kill(launcher, signal.SIGKILL)
        wait_for(launcher)


def start_lasting(engine: RunningEngine, notes: Path) -> None:
    """A server with a port and a name, and a container whose restart policy never lets it rest."""
    engine.post("/networks/create", {"Name": "town"}, expect=201)
    endpoint = {"EndpointsConfig": {"town": {"Aliases": ["harbour"]}}}
    host: dict[str, Any] = {"NetworkMode": "town", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}}
    create(engine, "httpd", "-f", "-h", "/etc", name="server", host=host, NetworkingConfig=endpoint)
    host = {"NetworkMode": "host", "RestartPolicy": {"Name": "always"}, "Binds": [f"{notes}:/notes"]}
    create(engine, "sh", "-c", RESTARTED, name="restless", host=host)
    for name in ("server", "restless"):
        engine.post(f"/containers/{name}/start")


def load(engine: RunningEngine, stopping: threading.Event) -> list[Client]:
    def with_volume(name: str) -> dict[str, Any]:
        script = f"echo {name} >> /lines/all; "
        return {"Entrypoint": ["sh", "-c", script + 'exec "$@"', "sh"], "HostConfig": {"Binds": ["lines:/lines"]}}

    def on_the_network(name: str) -> dict[str, Any]:
        return {"HostConfig": {"NetworkMode": "town", "PortBindings": {"80/tcp": [{}]}}}

    return [
        Lives(engine, "alone", stopping, lambda name: {"HostConfig": {"NetworkMode": "none"}}),
        Lives(engine, "writer", stopping, with_volume),
        Lives(engine, "neighbour", stopping, on_the_network),
        Execs(engine, "exec", stopping, "server"),
    ]


@pytest.mark.timeout(900)
def test_kills_under_load(new_engine: NewEngine, tmp_path: Path) -> None:
    engine = new_engine()
    notes = tmp_path / "notes"
    notes.mkdir()
    start_lasting(engine, notes)
    stopping = threading.Event()
    clients = load(engine, stopping)
    for client in clients:
        client.start()
    kill_at_random(engine, clients, random.Random(SEED))
    stopping.set()
    for client in clients:
        client.join(PATIENCE_S * 2)
    assert [wrong for client in clients for wrong in client.ledger.wrong] == []
    assert all(client.ledger.finished for client in clients)
    check_lasting(engine, notes)
    check_volume(engine, clients)
    engine.post("/containers/server/stop?t=0")
    for path in ("/containers/server", "/containers/restless?force=1", "/networks/town", "/volumes/lines"):
        assert engine.request("DELETE", path)[0] == 204, path
    check_nothing_left(engine)


def kill_at_random(engine: RunningEngine, clients: list[Client], chance: random.Random) -> None:
    for number in range(KILLS):
        if number % KILLS_IN_A_ROW == 0:
            let_all_go_on(clients)
        time.sleep(chance.uniform(0, 0.15))  # the moment is what is being varied
        what = chance.choices(("engine", "launcher", "both"), (3, 1, 1))[0]
        try:
            kill(engine, what)
        except AssertionError:
            pass  # the engine has not made its new launcher yet
        if engine.process.poll() is not None:
            engine.restart()


def let_all_go_on(clients: list[Client]) -> None:
    """Until each has finished something: on a busy machine an engine is killed before it has answered anybody."""
    before = [client.ledger.lives for client in clients]
    deadline = time.monotonic() + PATIENCE_S
    while any(
        client.is_alive() and client.ledger.lives == lives for client, lives in zip(clients, before, strict=True)
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_lasting(engine: RunningEngine, notes: Path) -> None:
    server = engine.get("/containers/server/json")
    assert server["State"]["Running"]
    port = server["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=5) as answer:
        assert answer.read().decode().strip() == server["Id"][:12]
    for name in ("server", "harbour"):
        said = run(engine, "wget", "-q", "-O", "-", f"http://{name}/hostname", host={"NetworkMode": "town"})
        assert said == (0, f"{server['Id'][:12]}\n", "")
    starts = (notes / "starts").stat().st_size
    engine.stop()  # so that it is not kept waiting any longer for its next start
    engine.restart()
    deadline = time.monotonic() + PATIENCE_S
    while (notes / "starts").stat().st_size == starts:
        assert time.monotonic() < deadline, engine.get("/containers/restless/json")["State"]
        time.sleep(0.05)
    assert not (notes / "twice").exists()
    restless = engine.get("/containers/restless/json")
    assert restless["State"]["Running"] and restless["State"]["Status"] in ("running", "restarting")
    assert 0 <= restless["RestartCount"] <= (notes / "starts").stat().st_size


def check_volume(engine: RunningEngine, clients: list[Client]) -> None:
    lines = (engine.data_root / "volumes/lines/_data/all").read_text().split()
    finished = [name for client in clients if client.name == "writer" for name in client.ledger.finished]
    assert finished and set(finished) <= set(lines)


def check_nothing_left(engine: RunningEngine) -> None:
    assert engine.get("/containers/json?all=1") == []
    engine.stop()
    store = sqlite3.connect(engine.data_root / "engine.db")
    assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    engine.restart()
    assert engine.get("/volumes")["Volumes"] == []
    assert engine.get('/networks?filters={"type":["custom"]}') == []
    places = [engine.data_root / "containers", engine.data_root / "snapshots", engine.data_root / "volumes"]
    assert [path for place in (*places, engine.run_dir / "bundles") for path in place.iterdir()] == []
    cgroups = Path("/sys/fs/cgroup").glob(f"**/wherry-{engine.instance}/*")
    assert [path for path in cgroups if path.is_dir()] == []
    assert str(engine.data_root) not in Path("/proc/self/mountinfo").read_text()
    rules = subprocess.run(["nft", "list", "table", "ip", f"wherry_{engine.instance}"], capture_output=True, text=True)
    published = [line for line in rules.stdout.splitlines() if "elements" in line and "tcp" in line]
    assert published == []  # what is of the default bridge stays

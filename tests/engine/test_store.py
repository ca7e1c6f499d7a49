"""The engine's store: older ones are brought up to date, newer and damaged ones refused with a sentence."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runtime.engine import migrations
from runtime.engine.migrations import SCHEMA_VERSION
from runtime.engine.store import Store
from runtime.errors import SystemFault
from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create
from tests.harness import REPOSITORY

SCHEMA_1 = REPOSITORY / "tests/fixtures/store_schema_1.sql"


def raw(id: str, document: Any) -> Any:
    return document


def store_of(path: Path, text: str) -> Path:
    with sqlite3.connect(path) as db:
        db.executescript(text)
    db.close()
    return path


def version_of(path: Path) -> int:
    with sqlite3.connect(path) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(version)


def test_an_engine_on_a_store_of_schema_1(new_engine: NewEngine) -> None:
    engine = new_engine()
    image = engine.get("/images/busybox/json")["Id"]
    bridge = f"wherry{engine.instance}"
    engine.stop()
    path = engine.data_root / "engine.db"
    for file in engine.data_root.glob("engine.db*"):
        file.unlink()
    store_of(path, SCHEMA_1.read_text().replace("@IMAGE@", image).replace("@BRIDGE@", bridge))
    engine.restart()
    names = {container["Names"][0]: container for container in engine.get("/containers/json?all=1")}
    assert names.keys() == {"/web", "/alone"}
    assert [volume["Name"] for volume in engine.get("/volumes")["Volumes"]] == ["data"]
    web = engine.get("/containers/web/json")
    assert web["State"]["ExitCode"] == 137 and web["Config"]["Labels"] == {"a": "b"}
    engine.post("/containers/web/start")
    network = engine.get("/containers/web/json")["NetworkSettings"]
    assert network["Networks"]["bridge"]["IPAddress"]
    assert network["Ports"]["80/tcp"][0]["HostIp"] == "127.0.0.1"
    engine.post("/containers/alone/start")
    assert list(engine.get("/containers/alone/json")["NetworkSettings"]["Networks"]) == ["none"]
    assert version_of(path.with_name("engine.db.schema-1")) == 1
    for name in ("web", "alone"):
        engine.request("DELETE", f"/containers/{name}?force=1")


def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_of(tmp_path / "engine.db", SCHEMA_1.read_text())
    before = path.read_bytes()

    def broken(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM objects")
        raise KeyError("subnet")

    monkeypatch.setattr("runtime.engine.store.MIGRATIONS", (broken,))
    with pytest.raises(SystemFault, match=r"schema 1 cannot be brought to schema .* it is as it was"):
        Store(path)
    assert version_of(path) == 1
    with sqlite3.connect(path) as db, sqlite3.connect(":memory:") as copy:
        copy.deserialize(before)
        assert list(db.iterdump()) == list(copy.iterdump())
    db.close()
    copy.close()


def test_every_schema_has_a_step() -> None:
    assert len(migrations.MIGRATIONS) == SCHEMA_VERSION - 1
    assert sorted(path.name for path in SCHEMA_1.parent.glob("store_schema_*.sql")) == [
        f"store_schema_{version}.sql" for version in range(1, SCHEMA_VERSION)
    ]


def test_a_store_of_the_future_is_refused(tmp_path: Path) -> None:
    path = store_of(tmp_path / "engine.db", f"PRAGMA user_version={SCHEMA_VERSION + 1};")
    with pytest.raises(SystemFault, match="was written by a newer Wherry"):
        Store(path)


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    path.write_bytes(b"This is no database. " * 500)
    with pytest.raises(SystemFault, match=r"engine\.db cannot be read .*restore it from a backup, or move it away"):
        Store(path)
    store_of(tmp_path / "other.db", SCHEMA_1.read_text())
    whole = (tmp_path / "other.db").read_bytes()
    (tmp_path / "other.db").write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(SystemFault, match="cannot be read"):
        Store(tmp_path / "other.db").all("container", raw)


def test_a_damaged_record_does_not_keep_the_others_from_being_served(new_engine: NewEngine) -> None:
    engine = new_engine()
    good, bad = create(engine, "true", name="good"), create(engine, "true", name="bad")
    engine.post("/networks/create", {"Name": "town"}, expect=201)
    engine.post("/volumes/create", {"Name": "data"}, expect=201)
    engine.stop()
    path = engine.data_root / "engine.db"
    with sqlite3.connect(path) as db:
        whole = db.execute("SELECT value, kind, id FROM objects").fetchall()
        db.execute("UPDATE objects SET value = substr(value, 1, 100) WHERE id = ?", (bad,))
        db.execute("UPDATE objects SET value = '[]' WHERE kind = 'volume' OR value LIKE '%\"town\"%'")
    db.close()
    engine.restart()
    assert [container["Id"] for container in engine.get("/containers/json?all=1")] == [good]
    assert engine.get('/networks?filters={"name":["town"]}') == []
    assert [volume["Name"] for volume in engine.get("/volumes")["Volumes"]] == ["data"]  # as its directory has it
    assert f"container {bad} cannot be read" in engine.log()
    assert engine.post(f"/containers/{good}/start") is None
    engine.stop()
    with sqlite3.connect(path) as db:  # mended
        db.executemany("UPDATE objects SET value = ? WHERE kind = ? AND id = ?", whole)
    db.close()
    engine.restart()
    engine.post("/containers/bad/start")
    for path in ("/containers/good", "/containers/bad?force=1", "/networks/town", "/volumes/data"):
        assert engine.request("DELETE", path)[0] == 204


def test_what_is_put_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "engine.db")
    store.put("volume", "a", {"n": 1})
    store.put("volume", "a", {"n": 2})
    store.close()
    store = Store(tmp_path / "engine.db")
    assert store.all("volume", raw) == {"a": {"n": 2}}
    assert store.note("volume", "a", None)
    assert store.get("volume", "a") is None
    store.close()


def test_what_a_disk_refuses_is_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "engine.db")
    store.put("volume", "gone", {})
    told: list[None] = []
    store.on_late = lambda: told.append(None)
    store._db.execute("PRAGMA query_only=1")  # every write fails as on a disk that has become read-only
    with pytest.raises(SystemFault, match=r"engine\.db cannot be written .*readonly.*: see in the kernel's log"):
        store.put("volume", "a", {"n": 1})
    assert told == [] and store.write_late()
    assert not store.note("volume", "a", {"n": 2})
    assert not store.note("volume", "a", {"n": 3})
    assert not store.note("volume", "gone", None)
    assert told == [None] and not store.write_late()
    with pytest.raises(SystemFault):
        store.put("volume", "b", {})
    store._db.execute("PRAGMA query_only=0")
    store.put("volume", "c", {})
    assert store.all("volume", raw) == {"a": {"n": 3}, "c": {}}
    assert store.write_late()
    store.close()
    assert "what happens until then is kept in memory" in caplog.text

"""Logs through HTTP: drivers, rotation, following, and what a killed engine leaves."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create, first_output, logs
from tests.harness import RunningEngine, UnixConnection


def finished(engine: RunningEngine, script: str, log: dict[str, Any] | None = None, **config: Any) -> str:
    """A container that has run `script` to its end."""
    id = create(engine, "sh", "-c", script, host={"LogConfig": log or {}}, **config)
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/wait", expect=200)
    return id


COUNT = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); done"


@pytest.mark.parametrize("driver, compress", [("json-file", "false"), ("local", "true")])
def test_rotation(engine: RunningEngine, driver: str, compress: str) -> None:
    options = {"max-size": "4k", "max-file": "3", "compress": compress}
    id = finished(engine, COUNT, {"Type": driver, "Config": options})
    shown = engine.get(f"/containers/{id}/json")
    assert shown["HostConfig"]["LogConfig"] == {"Type": driver, "Config": options}
    assert shown["LogPath"].endswith("-json.log") == (driver == "json-file")
    lines = logs(engine, id)[0].splitlines()
    assert lines == [f"line {number}" for number in range(400)][-len(lines) :]
    assert 100 < len(lines) < 400
    _, tail = engine.request("GET", f"/containers/{id}/logs?stdout=1&tail=100")
    assert tail.count(b"line ") == 100


def test_no_log(engine: RunningEngine) -> None:
    id = finished(engine, "echo unseen", {"Type": "none"})
    assert engine.message("GET", f"/containers/{id}/logs?stdout=1") == (
        501,
        "configured logging driver does not support reading",
    )
    assert not list((engine.data_root / "containers" / id).glob("*log*"))


def test_details(engine: RunningEngine) -> None:
    options = {"labels": "team", "env": "A", "tag": "{{.Name}}/{{.ID}}"}
    log = {"Type": "json-file", "Config": options}
    id = finished(engine, "echo hi", log, Labels={"team": "red", "x": "y"}, Env=["A=b c"])
    name = engine.get(f"/containers/{id}/json")["Name"].removeprefix("/")
    _, raw = engine.request("GET", f"/containers/{id}/logs?stdout=1&details=1")
    assert raw[8:].decode() == f"A=b+c,tag={name}%2F{id[:12]},team=red hi\n"


def test_streams_and_binary(engine: RunningEngine) -> None:
    script = "printf 'a\\377b\\000c\\033[1m\\n'; echo err >&2"
    id = finished(engine, script, {"Type": "local"})
    _, raw = engine.request("GET", f"/containers/{id}/logs?stdout=1")
    assert raw[8:] == b"a\xffb\0c\x1b[1m\n"
    _, raw = engine.request("GET", f"/containers/{id}/logs?stderr=1")
    assert raw == b"\2\0\0\0\0\0\0\4err\n"
    assert engine.message("GET", f"/containers/{id}/logs")[0] == 400


def test_a_terminals_log_is_raw(engine: RunningEngine) -> None:
    id = finished(engine, "echo one; echo two", Tty=True)
    assert engine.request("GET", f"/containers/{id}/logs?stdout=1")[1] == b"one\r\ntwo\r\n"


def test_following_ends_with_the_container(engine: RunningEngine) -> None:
    """Also when it is started again, and when it is removed under the reader."""
    created = create(engine, "true")
    assert engine.request("GET", f"/containers/{created}/logs?stdout=1&follow=1")[1] == b""
    id = create(engine, "sh", "-c", "echo up; exec sleep 60")
    for end in (("POST", f"/containers/{id}/restart?t=0"), ("DELETE", f"/containers/{id}?force=1")):
        engine.request("POST", f"/containers/{id}/start")
        connection = UnixConnection(engine.socket)
        connection.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")
        response = connection.getresponse()
        assert b"up\n" in response.read1()
        engine.request(*end)
        response.read()
        connection.close()


def test_many_read_while_one_writes(engine: RunningEngine) -> None:
    """Every reader gets every line, slow or not, and the engine stays small and answers others meanwhile."""
    id = create(engine, "sh", "-c", "yes 0123456789012345678901234567890 | head -c 4m")
    Path(f"/proc/{engine.process.pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before_kb = memory_kb(engine, "VmRSS")
    engine.post(f"/containers/{id}/start")
    sizes: list[int] = []

    def read() -> None:
        sizes.append(len(engine.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")[1]))

    readers = [threading.Thread(target=read) for _ in range(3)]
    slow = UnixConnection(engine.socket)
    slow.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")
    for reader in readers:
        reader.start()
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 0
    for reader in readers:
        reader.join()
    expected = (4 << 20) // 32 * (8 + 32)
    assert sizes == [expected] * 3
    assert len(slow.getresponse().read()) == expected
    slow.close()
    assert memory_kb(engine, "VmHWM") - before_kb < 100_000


def memory_kb(engine: RunningEngine, what: str) -> int:
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0])


def test_an_unfinished_line_outlives_a_killed_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = create(engine, "sh", "-c", "printf 'no newline'; exec sleep 60")
    engine.post(f"/containers/{id}/start")
    assert first_output(engine, id)[8:] == b"no newline"
    engine.kill()
    engine.restart()
    assert logs(engine, id)[0] == "no newline"


def test_a_torn_log_is_mended(new_engine: NewEngine) -> None:
    engine = new_engine()
    id = finished(engine, "echo whole")
    (path,) = (engine.data_root / "containers" / id).glob("*-json.log")
    with path.open("ab") as log:
        log.write(b'{"log":"torn')
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/wait", expect=200)
    assert logs(engine, id)[0] == "whole\nwhole\n"
    assert json.loads(path.read_bytes().splitlines()[-1])["log"] == "whole\n"

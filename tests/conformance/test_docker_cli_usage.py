"""docker top and docker stats, with the real CLI."""

from __future__ import annotations

import json
import os
import re

from tests.engine.test_containers import create
from tests.harness import RunningEngine, UnixConnection


def test_top(engine: RunningEngine) -> None:
    engine.docker("run", "-d", "--name", "tops", "-u", "33", "busybox", "sh", "-c", "sleep 61 & exec sleep 62")
    pid = engine.get("/containers/tops/json")["State"]["Pid"]
    head, *lines = engine.docker("top", "tops").stdout.decode().splitlines()
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    by_command = {line.split(maxsplit=7)[7]: line.split() for line in lines}
    assert by_command.keys() == {"sleep 61", "sleep 62"}
    fields = by_command["sleep 62"]
    assert (fields[0], fields[1], fields[3], fields[5], fields[6]) == ("www-data", str(pid), "0", "?", "00:00:00")
    assert by_command["sleep 61"][2] == str(pid)
    assert re.fullmatch(r"\d\d:\d\d", fields[4])
    shown = engine.docker("top", "tops", "-eo", "pid,comm").stdout.decode().splitlines()
    assert shown[0].split() == ["PID", "COMMAND"]
    assert [str(pid), "sleep"] in [line.split() for line in shown[1:]]
    assert engine.message("GET", "/containers/tops/top?ps_args=-eo+comm") == (
        500,
        "Couldn't find PID field in ps output",
    )
    assert engine.message("GET", "/containers/tops/top?ps_args=-o+x=PID")[0] == 400
    stopped = create(engine, "true")
    assert engine.message("GET", f"/containers/{stopped}/top") == (409, f"container {stopped} is not running")


def test_stats_line(engine: RunningEngine) -> None:
    engine.docker("run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", "while :; do :; done")
    form = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.NetIO}}|{{.PIDs}}"
    name, cpu, memory, network, pids = (
        engine.docker("stats", "--no-stream", "--format", form).stdout.decode().split("|")
    )
    assert (name, pids.strip()) == ("busy", "1")
    assert float(cpu.rstrip("%")) > 5
    assert memory.endswith("/ 64MiB")
    assert "B / " in network


def test_stats_document(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60", name="idle")
    empty = engine.get(f"/containers/{id}/stats?stream=0")
    assert (empty["name"], empty["id"], empty["read"]) == ("/idle", id, "0001-01-01T00:00:00Z")
    engine.post(f"/containers/{id}/start")
    shot = engine.get(f"/containers/{id}/stats?stream=0&one-shot=1")
    assert shot["preread"].startswith("0001") and shot["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert shot["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert shot["cpu_stats"]["online_cpus"] == os.cpu_count()
    assert shot["memory_stats"]["limit"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert {"usage", "stats", "max_usage", "failcnt"} <= shot["memory_stats"].keys()
    assert shot["pids_stats"]["current"] == 1
    assert set(shot["networks"]) == {"eth0"}
    assert engine.message("GET", f"/containers/{id}/stats?stream=1&one-shot=1") == (
        400,
        "cannot have stream=true and one-shot=true",
    )


def test_stats_stream(engine: RunningEngine) -> None:
    """Two samples a second apart; zeros once it has stopped; the end with the removal."""
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    connection = UnixConnection(engine.socket)
    connection.request("GET", f"/containers/{id}/stats")
    response = connection.getresponse()
    first, second = json.loads(response.readline()), json.loads(response.readline())
    assert first["read"] == second["preread"]
    engine.post(f"/containers/{id}/stop?t=0")
    while json.loads(response.readline())["memory_stats"]:
        pass
    engine.request("DELETE", f"/containers/{id}")
    response.read()
    connection.close()

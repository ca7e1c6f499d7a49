"""Execs: every option, every refusal, and what is left of one that has ended."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.observing import events, wait_for_action
from tests.engine.test_containers import create
from tests.harness import RunningEngine

ATTACHED = {"AttachStdout": True, "AttachStderr": True}


@pytest.fixture
def running(engine: RunningEngine) -> str:
    id = create(engine, "sleep", "60", Env=["COLOUR=teal", "KEPT=yes"], WorkingDir="/tmp", User="daemon")
    engine.post(f"/containers/{id}/start")
    return id


def make(engine: RunningEngine, id: str, *command: str, **options: Any) -> str:
    return str(engine.post(f"/containers/{id}/exec", {"Cmd": list(command), **ATTACHED, **options}, 201)["Id"])


def output(engine: RunningEngine, exec_id: str) -> str:
    status, raw = engine.request("POST", f"/exec/{exec_id}/start", {"Detach": False})
    assert status in (101, 200), raw
    text = b""
    while raw:
        size = int.from_bytes(raw[4:8], "big")
        text, raw = text + raw[8 : 8 + size], raw[8 + size :]
    return text.decode()


def test_options(engine: RunningEngine, running: str) -> None:
    script = "id -un; pwd; echo $COLOUR $KEPT; grep CapEff /proc/self/status"
    plain = output(engine, make(engine, running, "sh", "-c", script)).split("\n")
    assert plain[:3] == ["daemon", "/tmp", "teal yes"]
    options = {"User": "root", "WorkingDir": "/etc", "Env": ["COLOUR=red"], "Privileged": True}
    other = output(engine, make(engine, running, "sh", "-c", script, **options)).split("\n")
    assert other[:3] == ["root", "/etc", "red yes"]
    assert int(other[3].split()[1], 16) > 0xA80425FB  # more than a container has


def test_console_size(engine: RunningEngine, running: str) -> None:
    exec_id = make(engine, running, "stty", "size", Tty=True, ConsoleSize=[11, 22])
    assert engine.request("POST", f"/exec/{exec_id}/start", {"Tty": True})[1] == b"11 22\r\n"
    exec_id = make(engine, running, "stty", "size", Tty=True)
    assert engine.request("POST", f"/exec/{exec_id}/start", {"Tty": True, "ConsoleSize": [33, 44]})[1] == b"33 44\r\n"


def test_inspect_before_while_and_after(engine: RunningEngine, running: str) -> None:
    exec_id = make(engine, running, "sh", "-c", "sleep 30", User="root", Privileged=True)
    shown = engine.get(f"/exec/{exec_id}/json")
    assert (shown["Running"], shown["ExitCode"], shown["Pid"], shown["ContainerID"]) == (False, None, 0, running)
    assert shown["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "sh",
        "arguments": ["-c", "sleep 30"],
        "privileged": True,
        "user": "root",
    }
    assert engine.get(f"/containers/{running}/json")["ExecIDs"] == [exec_id]
    engine.post(f"/exec/{exec_id}/start", {"Detach": True}, 200)
    shown = engine.get(f"/exec/{exec_id}/json")
    assert (shown["Running"], shown["Pid"] > 0) == (True, True)
    assert engine.message("POST", f"/exec/{exec_id}/start") == (
        409,
        f"Error: Exec command {exec_id} is already running",
    )
    engine.request("DELETE", f"/containers/{running}?force=1")
    assert engine.request("GET", f"/exec/{exec_id}/json")[0] == 404


def test_a_container_that_ends_takes_its_execs_along(engine: RunningEngine, running: str) -> None:
    exec_id = make(engine, running, "sleep", "30")
    waiting = make(engine, running, "sleep", "30")
    engine.post(f"/exec/{exec_id}/start", {"Detach": True}, 200)
    engine.post(f"/containers/{running}/kill")
    wait_for_action(engine, running, "exec_die")
    shown = engine.get(f"/exec/{exec_id}/json")
    assert (shown["Running"], shown["ExitCode"]) == (False, 137)
    assert engine.message("POST", f"/exec/{waiting}/start")[0] == 409
    assert engine.get(f"/containers/{running}/json")["ExecIDs"] is None


FAULTS = [
    (["nope"], {}, 127, 'exec: "nope": executable file not found in $PATH: unknown'),
    (["/etc/passwd"], {}, 126, 'exec: "/etc/passwd": permission denied: unknown'),
    (["true"], {"WorkingDir": "/no/such"}, 127, "/no/such"),
]


@pytest.mark.parametrize("command, options, code, words", FAULTS, ids=["missing", "not executable", "no directory"])
def test_what_cannot_be_run(
    engine: RunningEngine, running: str, command: list[str], options: dict[str, Any], code: int, words: str
) -> None:
    exec_id = make(engine, running, *command, **options)
    said = output(engine, exec_id)
    assert said.startswith("OCI runtime exec failed: exec failed: unable to start container process: ")
    assert said.endswith("\r\n") and words in said
    assert engine.get(f"/exec/{exec_id}/json")["ExitCode"] == code
    assert engine.message("POST", f"/exec/{exec_id}/start") == (409, f"Error: Exec command {exec_id} has already run")
    detached = make(engine, running, *command, **options)
    status, message = engine.message("POST", f"/exec/{detached}/start", {"Detach": True})
    assert (status, words in message) == (400, True)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Cmd": []}, "No exec command specified"),
    ({"Cmd": ["true"], "Env": "A=b"}, "Env"),
    ({"Cmd": ["true"], "ConsoleSize": [1]}, "ConsoleSize"),
]


@pytest.mark.parametrize("body, words", REFUSED)
def test_what_is_refused(engine: RunningEngine, running: str, body: dict[str, Any], words: str) -> None:
    status, message = engine.message("POST", f"/containers/{running}/exec", body)
    assert (status, words in message) == (400, True), message


def test_not_running(engine: RunningEngine) -> None:
    id = create(engine, "true")
    answer = engine.message("POST", f"/containers/{id}/exec", {"Cmd": ["true"]})
    assert answer == (409, f"container {id} is not running")


def test_events(engine: RunningEngine, running: str) -> None:
    exec_id = make(engine, running, "sh", "-c", "exit 3")
    output(engine, exec_id)
    told = [(event["Action"], event["Actor"]["Attributes"]) for event in events(engine, running)][2:]
    assert [action for action, _ in told] == ["exec_create: sh -c exit 3", "exec_start: sh -c exit 3", "exec_die"]
    assert all(attributes["execID"] == exec_id for _, attributes in told)
    assert told[-1][1]["exitCode"] == "3"


def test_no_file_stays_behind(engine: RunningEngine, running: str) -> None:
    output(engine, make(engine, running, "true"))
    assert not list(Path(engine.data_root / "containers" / running).glob("exec-*"))


def exec_server(engine: RunningEngine) -> int:
    """The pid of the process that starts execs without a fork, once it waits for one."""
    launcher = engine.launcher_pid()
    while True:
        for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                if (
                    Path(f"/proc/{pid}/comm").read_text() == "wherry-execs\n"
                    and len(os.listdir(f"/proc/{pid}/task")) == 1
                ):
                    return int(pid)
        time.sleep(0.01)  # made when the launcher has nothing to do, of which nobody is told


def is_served(engine: RunningEngine, container: str) -> bool:
    def switches() -> str:
        return Path(f"/proc/{exec_server(engine)}/status").read_text().partition("\nvoluntary_ctxt_switches:")[2]

    before = switches()
    assert output(engine, make(engine, container, "echo", "fine", User="root")) == "fine\n"
    return switches() != before


def test_no_memory_is_lent_to_those_who_may_trace(engine: RunningEngine, running: str) -> None:
    if engine.get("/info")["CgroupVersion"] == "2":
        pytest.skip("every exec has a process of its own on cgroup v2")
    output(engine, make(engine, running, "true"))  # the first says that there will be others
    assert is_served(engine, running)
    tracer = create(engine, "sleep", "100", host={"CapAdd": ["SYS_PTRACE"]})
    engine.post(f"/containers/{tracer}/start")
    assert not is_served(engine, tracer)
    sidecar = create(engine, "sleep", "100", host={"PidMode": f"container:{running}"})
    engine.post(f"/containers/{sidecar}/start")
    assert not is_served(engine, running)
    assert not is_served(engine, sidecar)

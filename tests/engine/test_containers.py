"""The life of containers, through HTTP as any client speaks it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.harness import RunningEngine, UnixConnection


def create(
    engine: RunningEngine, *command: str, name: str = "", host: dict[str, Any] | None = None, **config: Any
) -> str:
    body = {"Image": "busybox", "StopTimeout": 0, "Cmd": list(command), "HostConfig": host or {}, **config}
    return str(engine.post(f"/containers/create?name={name}", body, 201)["Id"])


def run(
    engine: RunningEngine, *command: str, host: dict[str, Any] | None = None, **config: Any
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a container that runs to its end."""
    id = create(engine, *command, host=host, **config)
    engine.post(f"/containers/{id}/start")
    code = engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"]
    out, err = logs(engine, id)
    engine.request("DELETE", f"/containers/{id}?v=1")
    return code, out, err


def logs(engine: RunningEngine, id: str) -> tuple[str, str]:
    _, raw = engine.request("GET", f"/containers/{id}/logs?stdout=1&stderr=1")
    streams = {1: b"", 2: b""}
    while raw:
        size = int.from_bytes(raw[4:8], "big")
        streams[raw[0]] += raw[8 : 8 + size]
        raw = raw[8 + size :]
    return streams[1].decode(), streams[2].decode()


def first_output(engine: RunningEngine, id: str) -> bytes:
    """Wait until the container has written something."""
    connection = UnixConnection(engine.socket)
    connection.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")
    try:
        return connection.getresponse().read1()
    finally:
        connection.close()


def test_output_and_exit_code(engine: RunningEngine) -> None:
    assert run(engine, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")


def test_a_container_is_alone_with_itself(engine: RunningEngine) -> None:
    script = "echo $$; hostname; ls /proc | grep -c '^[0-9]'; ls -d /sys/firmware/* 2>/dev/null; mount | grep -c ' / '"
    code, out, _ = run(engine, "sh", "-c", script, Hostname="lighter")
    assert code == 0
    pid, hostname, processes, *rest = out.split("\n")
    assert (pid, hostname, rest[0]) == ("1", "lighter", "1")
    assert int(processes) <= 4


def test_defaults_are_docker_s(engine: RunningEngine) -> None:
    code, out, _ = run(
        engine, "sh", "-c", "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; env | sort"
    )
    assert code == 0
    assert "CapEff:\t00000000a80425fb" in out
    assert "CapBnd:\t00000000a80425fb" in out
    assert "Seccomp:\t2" in out
    assert "NoNewPrivs:\t0" in out
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in out
    assert "HOME=/root" in out


def test_no_new_privileges(engine: RunningEngine) -> None:
    _, out, _ = run(engine, "grep", "NoNewPrivs", "/proc/self/status", host={"SecurityOpt": ["no-new-privileges"]})
    assert out == "NoNewPrivs:\t1\n"


def test_nothing_of_the_engine_leaks_in(engine: RunningEngine) -> None:
    _, out, _ = run(engine, "sh", "-c", "ls /proc/self/fd | wc -l; ls -l /proc/self/fd")
    assert int(out.split()[0]) <= 4, out  # 0, 1, 2 and the directory itself


def test_user_workdir_and_environment(engine: RunningEngine) -> None:
    code, out, _ = run(
        engine, "sh", "-c", "id -u; id -g; pwd; echo $COLOUR", User="33:33", WorkingDir="/srv/made", Env=["COLOUR=teal"]
    )
    assert (code, out) == (0, "33\n33\n/srv/made\nteal\n")
    code, out, _ = run(engine, "id", "-un", User="www-data")
    assert (code, out) == (0, "www-data\n")


def test_limits_are_in_force(engine: RunningEngine) -> None:
    host = {"Memory": 32 << 20, "PidsLimit": 17, "NanoCpus": 500_000_000}
    id = create(engine, "sleep", "60", host=host)
    engine.post(f"/containers/{id}/start")
    parent = f"wherry-{engine.instance}/{id}"
    files = {
        "memory.limit_in_bytes": str(32 << 20),
        "pids.max": "17",
        "cpu.cfs_quota_us": "50000",
    }
    for name, value in files.items():
        found = [path.read_text().strip() for path in Path("/sys/fs/cgroup").glob(f"*/{parent}/{name}")]
        assert found == [value], name
    shown = engine.get(f"/containers/{id}/json")["HostConfig"]
    assert (shown["Memory"], shown["PidsLimit"], shown["NanoCpus"]) == (32 << 20, 17, 500_000_000)


def test_a_container_sees_its_own_limit(engine: RunningEngine) -> None:
    _, out, _ = run(engine, "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes", host={"Memory": 32 << 20})
    assert out == f"{32 << 20}\n"


def test_out_of_memory_is_said(engine: RunningEngine) -> None:
    script = "head -c 64m /dev/zero | tail"  # tail keeps a line without end in memory
    id = create(engine, "sh", "-c", f"exec {script.split('|')[1]} /dev/zero", host={"Memory": 16 << 20})
    engine.post(f"/containers/{id}/start")
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 137
    assert engine.get(f"/containers/{id}/json")["State"]["OOMKilled"] is True


def test_read_only_root_and_tmpfs(engine: RunningEngine) -> None:
    host = {"ReadonlyRootfs": True, "Tmpfs": {"/scratch": "size=1m"}}
    code, out, err = run(engine, "sh", "-c", "echo x > /scratch/a && cat /scratch/a; touch /b", host=host)
    assert (code, out) == (1, "x\n")
    assert "Read-only file system" in err


def test_bind_mounts_and_volumes(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("from the host")
    host = {"Binds": [f"{tmp_path}:/in:ro", "wherry-test-volume:/data"]}
    code, out, err = run(engine, "sh", "-c", "cat /in/hello; echo kept > /data/file; touch /in/no", host=host)
    assert (code, out) == (1, "from the host")
    assert "Read-only" in err
    assert run(engine, "cat", "/data/file", host={"Binds": ["wherry-test-volume:/data"]})[1] == "kept\n"
    assert engine.request("DELETE", "/volumes/wherry-test-volume")[0] == 204


def test_an_init_reaps(engine: RunningEngine) -> None:
    _, out, _ = run(engine, "cat", "/proc/1/comm", host={"Init": True})
    assert "init" in out


def test_stop_asks_first_and_kills_after(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    engine.post(f"/containers/{id}/start")
    first_output(engine, id)
    engine.post(f"/containers/{id}/stop?t=20")
    assert engine.get(f"/containers/{id}/json")["State"]["ExitCode"] == 5
    assert engine.request("POST", f"/containers/{id}/stop")[0] == 304
    deaf = create(engine, "sh", "-c", "trap '' TERM; sleep 60")
    engine.post(f"/containers/{deaf}/start")
    engine.post(f"/containers/{deaf}/stop?t=0")
    assert engine.get(f"/containers/{deaf}/json")["State"]["ExitCode"] == 137


def test_kill_sends_any_signal(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/kill?signal=SIGKILL")
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 137


def test_start_again(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "echo again >> /count; wc -l < /count")
    for _ in range(2):
        engine.post(f"/containers/{id}/start")
        engine.post(f"/containers/{id}/wait", expect=200)
    assert logs(engine, id)[0].split() == ["1", "2"]
    assert engine.request("POST", f"/containers/{id}/restart?t=0")[0] == 204


def test_auto_remove(engine: RunningEngine) -> None:
    id = create(engine, "true", host={"AutoRemove": True})
    answer: list[Any] = []
    connection = UnixConnection(engine.socket)
    connection.request("POST", f"/containers/{id}/wait?condition=removed")
    response = connection.getresponse()
    engine.post(f"/containers/{id}/start")
    answer.append(json.loads(response.read()))
    connection.close()
    assert answer == [{"StatusCode": 0}]
    assert engine.request("GET", f"/containers/{id}/json")[0] == 404


def test_exec(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    body = {"Cmd": ["sh", "-c", "echo in; exit 9"], "AttachStdout": True, "AttachStderr": True}
    exec_id = engine.post(f"/containers/{id}/exec", body, 201)["Id"]
    status, raw = engine.request("POST", f"/exec/{exec_id}/start", {"Detach": False, "Tty": False})
    assert (status, raw[8:]) == (200, b"in\n")
    assert engine.get(f"/exec/{exec_id}/json")["ExitCode"] == 9


def test_events_tell_the_whole_story(engine: RunningEngine) -> None:
    connection = UnixConnection(engine.socket)
    connection.request("GET", '/events?filters={"type":["container"]}')
    response = connection.getresponse()
    seen: list[str] = []

    def listen() -> None:
        for line in response:
            seen.append(json.loads(line)["Action"])
            if seen[-1] == "destroy":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    run(engine, "true")
    listener.join(10)
    connection.close()
    assert seen == ["create", "start", "die", "destroy"]


def test_logs_tail_since_and_follow(engine: RunningEngine) -> None:
    id = create(engine, "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done")
    engine.post(f"/containers/{id}/start")
    status, followed = engine.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")
    assert status == 200
    assert followed.count(b"line") == 5
    _, tail = engine.request("GET", f"/containers/{id}/logs?stdout=1&tail=2&timestamps=1")
    assert tail.count(b"line") == 2
    assert b"Z line 5" in tail


@pytest.mark.parametrize(
    "filters, count", [({"name": ["findme"]}, 1), ({"label": ["a=b"]}, 1), ({"label": ["a=c"]}, 0)]
)
def test_list_filters(engine: RunningEngine, filters: dict[str, Any], count: int) -> None:
    create(engine, "true", name="findme", Labels={"a": "b"})
    assert len(engine.get(f"/containers/json?all=1&filters={json.dumps(filters).replace(' ', '')}")) == count

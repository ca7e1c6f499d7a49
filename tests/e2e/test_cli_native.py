"""The command line against a real engine, as `docker` users know it: outputs, exit codes, terminals, signals."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Terminal, Wherry

OpenTerminal = Callable[..., Terminal]


def test_run_prints_what_the_program_prints_and_ends_as_it_ends(wherry: Wherry) -> None:
    ended = wherry("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (ended.returncode, ended.stdout, ended.stderr) == (9, "out\n", "err\n")
    assert wherry("ps", "-aq").stdout == ""


def test_input_reaches_the_program_and_so_does_its_end(wherry: Wherry) -> None:
    data = bytes(range(256)) * 4096
    ended = wherry("run", "--rm", "-i", "busybox", "sha256sum", stdin=data)
    assert ended.returncode == 0
    assert ended.stdout.split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [("/nowhere", 127, "no such file or directory"), ("/etc/passwd", 126, "permission denied")],
)
def test_a_program_that_cannot_be_started(wherry: Wherry, program: str, code: int, reason: str) -> None:
    ended = wherry("run", "--rm", "busybox", program)
    assert ended.returncode == code
    assert ended.stderr.startswith("wherry: Error response from engine: ")
    assert program in ended.stderr and reason in ended.stderr
    assert wherry("ps", "-aq").stdout == ""


def test_a_program_that_is_killed(wherry: Wherry) -> None:
    process = wherry.start("run", "--name", "victim", "busybox", "sh", "-c", "echo ready; sleep 100")
    assert process.stdout and process.stderr
    with process.stdout, process.stderr:
        assert process.stdout.readline() == b"ready\n"
        assert wherry("stop", "-t", "0", "victim").stdout == "victim\n"
        assert process.wait(30) == 137
    [container] = json.loads(wherry("ps", "-a", "--format", "json").stdout)
    assert container["status"].startswith("Exited (137)")


def test_an_image_that_is_not_there(wherry: Wherry) -> None:
    ended = wherry("run", "nothing-of-the-kind")
    assert ended.returncode == 125
    assert "'nothing-of-the-kind'" in ended.stderr and "pulling it" in ended.stderr


def test_what_is_asked_for_is_what_the_container_gets(wherry: Wherry, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM_FILE=1\n")
    (tmp_path / "shared").mkdir()
    ended = wherry(
        *("run", "--rm", "-e", "GIVEN=2", "-e", "TAKEN", "--env-file", str(tmp_path / "env")),
        *("-w", "/tmp", "-u", "nobody", "--hostname", "box", "--read-only", "--tmpfs", "/scratch:size=1m"),
        *("-v", f"{tmp_path}/shared:/shared:ro", "--entrypoint", "sh", "--memory", "32m", "--pids-limit", "20"),
        *("busybox", "-c", "echo $FROM_FILE $GIVEN $TAKEN; pwd; id -u; hostname; ls -d /shared; touch /x"),
        environment={"TAKEN": "3"},
    )
    assert ended.stdout == "1 2 3\n/tmp\n65534\nbox\n/shared\n"
    assert ended.returncode == 1 and "Read-only file system" in ended.stderr


def test_detached_container_from_run_to_rm(wherry: Wherry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = wherry("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "sh", "-c", "echo ready; sleep 100")
    identity = started.stdout.strip()
    assert len(identity) == 64
    table = wherry("ps").stdout.splitlines()
    assert table[0].split("  ")[0] == "CONTAINER ID"
    assert table[1].startswith(identity[:12]) and f"0.0.0.0:{port}->80/tcp" in table[1] and table[1].endswith("web")
    assert wherry("ps", "-q", "--no-trunc").stdout == f"{identity}\n"
    assert wherry("logs", "web").stdout == "ready\n"
    refused = wherry("rm", "web")
    assert refused.returncode == 1 and "running" in refused.stderr
    assert wherry("stop", "-t", "0", "web").stdout == "web\n"
    assert wherry("ps", "-q").stdout == ""
    assert wherry("start", "web").stdout == "web\n"
    assert wherry("logs", "--tail", "1", "-t", "web").stdout.endswith("Z ready\n")
    assert wherry("rm", "-f", "web").stdout == "web\n"
    assert wherry("ps", "-aq").stdout == ""


def test_one_name_that_is_wrong_does_not_keep_the_others_back(wherry: Wherry) -> None:
    wherry("run", "-d", "--name", "one", "busybox", "sleep", "100")
    ended = wherry("rm", "-f", "ghost", "one")
    assert (ended.returncode, ended.stdout) == (1, "one\n")
    assert "No such container: ghost" in ended.stderr


def test_logs_follow_to_the_end(wherry: Wherry) -> None:
    program = "echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two >&2"
    wherry("run", "-d", "--name", "talker", "busybox", "sh", "-c", program)
    process = wherry.start("logs", "-f", "talker")
    assert process.stdout and process.stderr
    with process.stdout, process.stderr:
        assert process.stdout.readline() == b"one\n"
        assert wherry("exec", "talker", "touch", "/go").returncode == 0
        assert process.stderr.read() == b"two\n"
        assert process.wait(30) == 0


def test_exec_in_a_running_container(wherry: Wherry) -> None:
    wherry("run", "-d", "--name", "box", "-e", "A=1", "busybox", "sleep", "100")
    ended = wherry(
        "exec", "-w", "/tmp", "-e", "B=2", "-u", "nobody", "box", "sh", "-c", "echo $A$B; pwd; id -u; exit 4"
    )
    assert (ended.returncode, ended.stdout) == (4, "12\n/tmp\n65534\n")
    assert wherry("exec", "-i", "box", "cat", stdin=b"through").stdout == "through"
    assert wherry("exec", "box", "/nowhere").returncode == 127
    wherry("stop", "-t", "0", "box")
    refused = wherry("exec", "box", "true")
    assert refused.returncode == 1 and "not running" in refused.stderr


def test_signals_go_to_the_program(wherry: Wherry) -> None:
    program = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    process = wherry.start("run", "--rm", "busybox", "sh", "-c", program)
    assert process.stdout and process.stderr
    with process.stdout, process.stderr:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(30) == 3


def test_a_terminal_that_follows_the_window(terminal: OpenTerminal) -> None:
    screen = terminal("run", "--rm", "-it", "busybox", "sh")
    screen.expect(b"# ")
    screen.type(b"stty size; tty\r")
    screen.expect(b"40 100\r\n")
    screen.expect(b"/dev/pts/")
    screen.type(b"trap 'stty size' WINCH; echo ar\"\"med; read never\r")
    screen.expect(b"armed\r\n")
    screen.resize(30, 90)
    screen.expect(b"30 90\r\n")
    screen.type(b"\rexit 5\r")
    assert screen.wait() == 5


def test_letting_go_of_a_program(wherry: Wherry, terminal: OpenTerminal) -> None:
    screen = terminal("run", "-it", "--name", "kept", "busybox", "sh")
    screen.expect(b"# ")
    screen.type(b"\x10\x11")
    assert screen.wait() == 0
    assert wherry("ps").stdout.endswith("kept\n")


def test_a_terminal_is_asked_for_where_there_is_none(wherry: Wherry) -> None:
    ended = wherry("run", "-it", "busybox", "sh")
    assert ended.returncode == 125 and "not a terminal" in ended.stderr
    assert wherry("run", "--rm", "-t", "busybox", "tty").stdout.startswith("/dev/pts/")


def test_images_and_versions(wherry: Wherry, busybox_archive: Path) -> None:
    heading, *rows = wherry("images").stdout.splitlines()
    assert heading.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    images = json.loads(wherry("images", "--format", "json").stdout)
    [identity] = [image["id"] for image in images if "busybox:latest" in image["tags"]]
    short = identity.removeprefix("sha256:")[:12]
    assert [row.split()[2] for row in rows if row.startswith("busybox ")] == [short]
    assert short in wherry("images", "-q").stdout.splitlines()
    assert wherry("load", stdin=busybox_archive.read_bytes()).stdout == "Loaded image: busybox:latest\n"
    versions = json.loads(wherry("version", "--format", "json").stdout)
    assert versions["client"]["version"] == versions["engine"]["version"]


def test_status_and_doctor_agree_that_it_runs(wherry: Wherry) -> None:
    status = json.loads(wherry("status", "--format", "json").stdout)
    assert (status["state"], status["host"]) == ("running", f"unix://{wherry.socket}")
    checks = json.loads(wherry("doctor", "--format", "json").stdout)
    assert [check["verdict"] for check in checks if check["name"] == "Engine"] == ["ok"]


def test_run_starts_an_engine_when_none_runs(fresh_wherry: Wherry) -> None:
    stopped = fresh_wherry("ps")
    assert stopped.returncode == 1 and "wherry up" in stopped.stderr
    assert fresh_wherry("status").returncode == 1
    ended = fresh_wherry("run", "nothing-of-the-kind")
    assert "starting one" in ended.stderr and "'nothing-of-the-kind'" in ended.stderr
    assert fresh_wherry("status").returncode == 0
    assert fresh_wherry("up").returncode == 0


def test_down_ends_everything_and_up_brings_the_images_back(fresh_wherry: Wherry, busybox_archive: Path) -> None:
    fresh_wherry("up")
    fresh_wherry("load", "-i", str(busybox_archive))
    program = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
    fresh_wherry("run", "-d", "--name", "web", "busybox", "sh", "-c", program)
    fresh_wherry.shut_down()
    assert fresh_wherry("up").returncode == 0
    [container] = json.loads(fresh_wherry("ps", "-a", "--format", "json").stdout)
    assert (container["name"], container["state"]) == ("web", "exited")
    assert fresh_wherry("run", "--rm", "busybox", "echo", "again").stdout == "again\n"


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    wherry = Wherry(tmp_path)
    wherry.data_root.write_text("a file where a directory should be")
    ended = wherry("up")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Starting the engine\nwherry: The engine did not start: ")
    assert str(wherry.data_root) in ended.stderr

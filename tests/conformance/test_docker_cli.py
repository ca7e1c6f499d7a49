"""The real docker CLI on the engine's socket."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.harness import RunningEngine

# (arguments of `docker run --rm`, standard input, exit code, what is in the output)
RUNS: list[tuple[list[str], bytes | None, int, str]] = [
    (["busybox", "echo", "hi"], None, 0, "^hi$"),
    (["busybox", "sh", "-c", "exit 42"], None, 42, ""),
    (["--init", "busybox", "sh", "-c", "kill -9 $$"], None, 137, ""),
    (["busybox", "nosuch"], None, 127, "not found"),
    (["busybox", "/etc/passwd"], None, 126, "permission denied"),
    (["nosuch-image"], None, 125, "nosuch-image"),
    (["-i", "busybox", "cat"], b"through\n", 0, "^through$"),
    (["-i", "busybox", "wc", "-c"], b"x" * 300_000, 0, "^300000$"),
    (["-e", "A=b", "busybox", "sh", "-c", "echo $A"], None, 0, "^b$"),
    (["-w", "/tmp", "busybox", "pwd"], None, 0, "^/tmp$"),
    (["-u", "1000:1000", "busybox", "id"], None, 0, "uid=1000 gid=1000"),
    (["--hostname", "lug", "busybox", "hostname"], None, 0, "^lug$"),
    (["--entrypoint", "echo", "busybox", "from", "entrypoint"], None, 0, "^from entrypoint$"),
    (["--read-only", "busybox", "touch", "/x"], None, 1, "Read-only"),
    (["--read-only", "--tmpfs", "/t", "busybox", "touch", "/t/x"], None, 0, ""),
    (["-v", "/etc/hostname:/h:ro", "busybox", "test", "-s", "/h"], None, 0, ""),
    (["--network", "none", "busybox", "ls", "/sys/class/net"], None, 0, "^lo$"),
    (["--network", "host", "busybox", "ls", "/sys/class/net"], None, 0, "wherry"),
    (["--init", "busybox", "cat", "/proc/1/comm"], None, 0, "init"),
    (["--memory", "64m", "busybox", "true"], None, 0, ""),
    (["--memory", "1k", "busybox", "true"], None, 125, "6MB"),
    (["--cpus", "0.5", "--pids-limit", "50", "busybox", "true"], None, 0, ""),
    (["--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"], None, 0, "0000000000000000"),
    (["--cap-add", "NET_ADMIN", "busybox", "grep", "CapEff", "/proc/self/status"], None, 0, "00000000a80435fb"),
    (["--security-opt", "seccomp=unconfined", "busybox", "grep", "Seccomp:", "/proc/self/status"], None, 0, "0$"),
    (["--ulimit", "nofile=512:1024", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"], None, 0, "^512\n1024$"),
    (["--add-host", "lock:10.1.2.3", "busybox", "grep", "lock", "/etc/hosts"], None, 0, "10.1.2.3"),
    (["--dns", "9.9.9.9", "busybox", "cat", "/etc/resolv.conf"], None, 0, "nameserver 9.9.9.9"),
    (["--shm-size", "1m", "busybox", "df", "-k", "/dev/shm"], None, 0, "1024"),
    (["--sysctl", "net.ipv4.ip_forward=0", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward"], None, 0, "^0$"),
    (["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m", "busybox", "df", "-k", "/t"], None, 0, "1024"),
    (["--label", "a=b", "--name", "labelled", "busybox", "true"], None, 0, ""),
    (
        ["--restart", "always", "busybox", "true"],
        None,
        125,
        "--restart and --rm",
    ),
]


@pytest.mark.parametrize("arguments, input, code, pattern", RUNS, ids=[" ".join(case[0])[:50] for case in RUNS])
def test_run(engine: RunningEngine, arguments: list[str], input: bytes | None, code: int, pattern: str) -> None:
    done = engine.docker("run", "--rm", *arguments, input=input)
    assert done.returncode == code, done
    assert re.search(pattern, (done.stdout + done.stderr).decode().strip(), re.MULTILINE), done
    assert engine.docker("ps", "-aq").stdout == b""


def test_a_published_web_server(engine: RunningEngine) -> None:
    engine.docker("run", "-d", "--name", "web", "-p", "0:80", "busybox", "httpd", "-f", "-h", "/etc")
    address = engine.docker("port", "web", "80").stdout.decode().splitlines()[0]
    port = address.rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        with urllib.request.urlopen(f"http://{host}:{port}/hostname", timeout=5) as answer:
            assert len(answer.read()) == 13
    gateway = engine.get("/networks/bridge")["IPAM"]["Config"][0]["Gateway"]
    request = f"printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {gateway} {port}"
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", request)
    assert b" 200 OK\r\n" in done.stdout, done


def test_a_published_udp_port(engine: RunningEngine) -> None:
    import socket

    server = ("alpine", "nc", "-u", "-l", "-p", "53", "-e", "cat")
    engine.docker("run", "-d", "--name", "echo", "-p", "127.0.0.1::53/udp", *server)
    port = int(engine.docker("port", "echo", "53/udp").stdout.decode().rpartition(":")[2])
    deadline = time.monotonic() + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        while True:
            client.sendto(b"ping", ("127.0.0.1", port))
            try:
                assert client.recv(16) == b"ping"
                return
            except (TimeoutError, ConnectionRefusedError):
                assert time.monotonic() < deadline


def test_a_terminal(engine: RunningEngine) -> None:
    """`docker run -it`, typed into as a person would."""
    master, slave = pty.openpty()
    environment = {**os.environ, "DOCKER_HOST": engine.host}
    command = ["docker", "run", "--rm", "-it", "busybox", "sh"]
    process = subprocess.Popen(
        command, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    try:
        assert b"/ #" in read_until(master, b"/ #")
        os.write(master, b"tty; echo $((6*7))\n")
        assert b"/dev/pts/0" in read_until(master, b"42\r\n")
        os.write(master, b"exit 3\n")
        assert process.wait(timeout=10) == 3
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([fd], [], [], 10)[0], seen
        seen += os.read(fd, 4096)
    return seen


def test_everyday_commands(engine: RunningEngine) -> None:
    docker = engine.docker
    id = docker("create", "--name", "everyday", "-i", "busybox", "cat").stdout.decode().strip()
    assert docker("start", "everyday").returncode == 0
    assert json.loads(docker("inspect", "everyday").stdout)[0]["Id"] == id
    assert b"everyday" in docker("ps").stdout
    assert docker("exec", "-i", "everyday", "cat", input=b"in").stdout == b"in"
    assert docker("exec", "everyday", "sh", "-c", "exit 8").returncode == 8
    assert docker("exec", "everyday", "nosuch").returncode == 127
    assert docker("kill", "everyday").returncode == 0
    assert docker("wait", "everyday").stdout == b"137\n"
    assert docker("logs", "everyday").returncode == 0
    assert docker("rm", "everyday").returncode == 0
    assert docker("inspect", "everyday").returncode == 1


def test_images(engine: RunningEngine, tmp_path: Path) -> None:
    docker = engine.docker
    assert docker("tag", "busybox", "example.test/team/box:1").returncode == 0
    assert b"example.test/team/box" in docker("images").stdout
    assert docker("rmi", "example.test/team/box:1").returncode == 0
    assert json.loads(docker("image", "inspect", "busybox").stdout)[0]["RepoTags"] == ["busybox:latest"]
    (tmp_path / "hello.txt").write_text("imported")
    archive = subprocess.run(["tar", "-C", tmp_path, "-c", "hello.txt"], capture_output=True, check=True).stdout
    assert docker("import", "-", "imported:1", input=archive).returncode == 0
    assert docker("rmi", "imported:1").returncode == 0
    assert docker("image", "inspect", "imported:1").returncode == 1


def test_version_and_info(engine: RunningEngine) -> None:
    assert engine.docker("version", "--format", "{{.Server.Version}}").stdout.strip() == b"0.1.0"
    info = engine.docker("info", "--format", "{{.CgroupVersion}} {{.ServerErrors}}").stdout.decode()
    assert info.startswith("1 ")

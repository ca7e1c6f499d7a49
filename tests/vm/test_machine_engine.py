"""The engine inside the guest, where cgroups are v2, the tools are BusyBox's and the desktop is another computer.

What works anywhere is tested without a machine; here is a table of what depends on the guest's kernel, its modules and
programs, and on the way through the machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core.errors import UserError
from app.services.compose import find_program
from tests.harness import REPOSITORY
from tests.vm.conftest import BootedMachine
from tests.vm.test_machine_docker_cli import docker

pytestmark = pytest.mark.timeout(300)

CGROUP = "cd /sys/fs/cgroup && cat"
"""One run costs a second or more under emulation, so each case asks for much at once."""

RUNS: dict[str, tuple[str, str, int, str]] = {
    "memory": (
        "-m 64m --memory-reservation 32m --memory-swap 96m",
        f"{CGROUP} memory.max memory.low memory.swap.max",
        0,
        r"^67108864\n33554432\n33554432$",
    ),
    "processors": (
        "--cpu-shares 512 --cpuset-cpus 1 --cpuset-mems 0 --cpus 0.25 --pids-limit -1",
        f"{CGROUP} cpu.weight cpuset.cpus cpuset.mems cpu.max pids.max",
        0,
        r"^59\n1\n0\n25000 100000\nmax$",
    ),
    "disk throughput": (
        "--device-read-bps /dev/vdb:1mb --device-write-iops /dev/vdb:100",
        f"{CGROUP} io.max",
        0,
        r"rbps=1048576 wbps=max riops=max wiops=100$",
    ),
    "process limit": (
        "--pids-limit 4",
        "for i in 1 2 3 4 5 6; do sleep 1 & done",
        2,
        "can't fork: Resource temporarily unavailable",
    ),
    "cgroup out of reach": (
        "",
        "echo 1 >/sys/fs/cgroup/cgroup.freeze",
        1,
        "Read-only file system",
    ),
    "device to read only": (
        "--device /dev/vdb:/dev/disk:r",
        "head -c 2 /dev/disk | wc -c; : >>/dev/disk",
        1,
        r"^2\n.*/dev/disk: Operation not permitted$",
    ),
    "devices whose modules nothing has loaded": (
        "--device /dev/fuse --device /dev/net/tun",
        "exec 3<>/dev/fuse 4<>/dev/net/tun && echo open",
        0,
        "^open$",
    ),
    "device rule": (
        "--device-cgroup-rule 'c 10:* rmw'",
        "mknod /d c 10 229 && exec 3<>/d && echo open; mknod /e b 253 0; cat /e",
        1,
        r"^open\n.*'/e': Operation not permitted$",
    ),
    "privileged": (
        "--privileged",
        "head -c 4 /dev/vda | wc -c; mount -t tmpfs x /mnt && echo mounted",
        0,
        r"^4\nmounted$",
    ),
    "file systems": (
        "--shm-size 5m --tmpfs /t:size=3m -v /etc:/guest:ro",
        "df -m /dev/shm /t | awk '{ print $2 }'; cat /guest/alpine-release; touch /guest/x",
        1,
        r"\n5\n3\n3\.\d+.*\n.*Read-only file system$",
    ),
    "unprivileged": (
        "--read-only --cap-drop ALL --security-opt no-new-privileges --user 1000:1000 --ulimit nofile=77",
        "id -u; ulimit -n; grep -o 'NoNewPrivs:.1' /proc/self/status; touch /x",
        1,
        r"^1000\n77\nNoNewPrivs:\t1\n.*Read-only file system$",
    ),
    "the desktop by name": (
        "",
        "grep host.docker.internal /etc/hosts; cat /etc/resolv.conf; ping -c 1 -W 9 host.docker.internal",
        0,
        r"(?s)^10\.0\.2\.2\s+host\.docker\.internal\nnameserver 10\.0\.2\.3\n.*1 packets received",
    ),
    "sctp": (
        "-p 0:9999/sctp",
        "true",
        125,
        "SCTP ports of a machine cannot be offered; publish TCP or UDP",
    ),
}


Docker = Callable[..., str]


@pytest.fixture
def cli(machine: BootedMachine) -> Iterator[Docker]:
    """Run the docker CLI, which must succeed, and return what it printed. What is left in the end is removed."""

    def run(*arguments: str) -> str:
        done = docker(machine, *arguments)
        assert done.returncode == 0, done
        return done.stdout.decode().strip()

    yield run
    if left := run("ps", "-aq").split():
        run("rm", "-fv", *left)
    run("network", "prune", "-f")


def eventually(look: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("name", RUNS)
def test_run(machine: BootedMachine, name: str) -> None:
    options, script, code, pattern = RUNS[name]
    done = docker(machine, "run", "--rm", *shlex.split(options), "alpine", "sh", "-c", script)
    assert done.returncode == code, done
    assert re.search(pattern, (done.stdout + done.stderr).decode().strip()), done


def test_pause_stats_top_update(cli: Docker, machine: BootedMachine) -> None:
    cli("run", "-d", "--init", "--name", "limited", "-m", "64m", "alpine", "sleep", "900")
    cli("pause", "limited")
    assert cli("inspect", "-f", "{{.State.Status}}", "limited") == "paused"
    assert b"is paused" in docker(machine, "exec", "limited", "true").stderr
    usage = json.loads(cli("stats", "--no-stream", "--format", "json", "limited"))
    assert usage["PIDs"] == "2"
    assert usage["MemUsage"].endswith("/ 64MiB") and not usage["MemUsage"].startswith("0B")
    cli("unpause", "limited")
    assert cli("top", "limited").count("sleep 900") == 2
    assert re.search(r"^\d+ +sleep$", cli("top", "limited", "-o", "pid,comm"), re.MULTILINE)
    cli("update", "-m", "128m", "--memory-swap", "256m", "--cpus", "1.5", "--pids-limit", "55", "limited")
    limits = cli("exec", "limited", "sh", "-c", f"{CGROUP} memory.max memory.swap.max cpu.max pids.max")
    assert limits.splitlines() == ["134217728", "134217728", "150000 100000", "55"]
    assert b"available: 0-1" in docker(machine, "update", "--cpuset-cpus", "7", "limited").stderr
    cli("pause", "limited")
    cli("stop", "-t", "1", "limited")
    assert cli("inspect", "-f", "{{.State.Status}}", "limited") == "exited"


def test_memory_that_runs_out_is_told(cli: Docker) -> None:
    since = cli("info", "-f", "{{.SystemTime}}")
    cli("run", "-d", "--name", "greedy", "-m", "16m", "alpine", "sh", "-c", "tail /dev/zero; exec sleep 900")
    state = "{{.State.Running}} {{.State.OOMKilled}}"
    eventually(lambda: cli("inspect", "-f", state, "greedy") == "true true")
    cli("kill", "greedy")
    until = cli("info", "-f", "{{.SystemTime}}")
    events = cli("events", "--since", since, "--until", until, "-f", "container=greedy", "--format", "{{.Action}}")
    assert events.split().count("oom") >= 1
    assert cli("inspect", "-f", "{{.State.ExitCode}}", "greedy") == "137"


def test_a_container_with_cgroups_of_its_own(cli: Docker) -> None:
    """As systemd and container engines do: processes in leaves, controllers enabled above them."""
    script = (
        "cd /sys/fs/cgroup; mkdir init; echo 1 >init/cgroup.procs; echo '+memory +pids' >cgroup.subtree_control;"
        "cat cgroup.subtree_control; exec sleep 900"
    )
    cli("run", "-d", "--privileged", "--name", "nested", "alpine", "sh", "-c", script)
    eventually(lambda: cli("logs", "nested") == "memory pids")
    assert cli("exec", "nested", "cat", "/proc/self/cgroup") == "0::/init"
    assert cli("top", "nested").count("sleep 900") == 1
    cli("restart", "-t", "0", "nested")
    eventually(lambda: cli("logs", "nested").split() == ["memory", "pids"] * 2)
    cli("pause", "nested")
    cli("rm", "-f", "nested")


def test_networks(cli: Docker) -> None:
    cli("network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "own")
    cli("run", "-d", "--network", "own", "--name", "server", "--network-alias", "www", "alpine", "sleep", "900")
    names = cli("run", "--rm", "--network", "own", "alpine", "sh", "-c", "nslookup www; ping6 -c 1 -W 9 server")
    assert "Address: 10.77.0.2" in names and "1 packets received" in names
    cli("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "10.0.2.0/24", "--gateway", "10.0.2.2",
        "--ip-range", "10.0.2.64/28", "outside")  # fmt: skip
    assert "1 packets received" in cli(
        "run", "--rm", "--network", "outside", "alpine", "ping", "-c", "1", "-W", "9", "10.0.2.2"
    )
    cli("network", "create", "-d", "macvlan", "-o", "parent=eth0.20", "--subnet", "10.78.0.0/24", "vlan")
    assert "10.78.0.2/24" in cli("run", "--rm", "--network", "vlan", "alpine", "ip", "address")
    cli("network", "create", "-d", "ipvlan", "--subnet", "10.79.0.0/24", "inside")
    cli("run", "-d", "--network", "inside", "--name", "peer", "alpine", "sleep", "900")
    assert "1 packets received" in cli("run", "--rm", "--network", "inside", "alpine", "ping", "-c", "1", "peer")


def test_files_logs_health_restarts(cli: Docker, machine: BootedMachine, tmp_path: Path) -> None:
    cli("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=5m", "memory")
    cli("run", "-d", "--name", "all", "--log-driver", "local", "-v", "memory:/m", "-v", "disk:/d", "--health-cmd",
        "test -e /d/ok", "--health-interval", "1s", "alpine", "sh", "-c", "df -m /m; exec sleep 900")  # fmt: skip
    cli("run", "-d", "--name", "again", "--restart", "on-failure:1", "alpine", "sh", "-c", "echo tried; exit 3")
    (tmp_path / "ok").write_text("copied\n")
    cli("cp", str(tmp_path / "ok"), "all:/d/ok")
    cli("cp", str(tmp_path / "ok"), "all:/kept")
    assert cli("exec", "all", "cat", "/d/ok") == "copied"
    assert re.search(r"^tmpfs +5 ", cli("logs", "all"), re.MULTILINE)
    cli("commit", "all", "committed")
    assert cli("run", "--rm", "committed", "cat", "/kept") == "copied"
    eventually(lambda: cli("inspect", "-f", "{{.State.Health.Status}}", "all") == "healthy")
    state = "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}"
    eventually(lambda: cli("inspect", "-f", state, "again") == "1 exited 3")
    assert cli("logs", "again").split() == ["tried"] * 2
    cli("rm", "-f", "all")
    cli("volume", "rm", "memory", "disk")
    cli("rmi", "committed")


def test_a_pull_gets_as_far_as_the_network(machine: BootedMachine) -> None:
    done = docker(machine, "pull", "localhost:1/nobody:1")
    assert b"dial tcp localhost:1: connect: connection refused" in done.stderr


PROJECT = """
services:
  web:
    image: alpine
    command: ["sh", "-c", "echo ready >/www/index.html; exec nc -lk -p 80 -e cat /www/index.html"]
    volumes: ["content:/www"]
    networks: [front]
    stop_grace_period: 0s
    healthcheck:
      test: ["CMD", "test", "-e", "/www/index.html"]
      interval: 1s
  client:
    image: alpine
    command: ["nc", "-w", "9", "web", "80"]
    stdin_open: true
    depends_on:
      web: {condition: service_healthy}
    networks: [front]
networks:
  front: {}
volumes:
  content: {}
"""


def test_a_compose_project(machine: BootedMachine, tmp_path: Path) -> None:
    try:
        find_program()
    except UserError:
        pytest.skip("needs the compose extra")
    (tmp_path / "compose.yaml").write_text(PROJECT)

    def compose(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app", "--host", machine.manager.engine_host(machine.name), "compose", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    compose("up", "-d")
    try:
        eventually(lambda: "ready" in compose("logs", "client"))
    finally:
        compose("down", "-v")

"""The real docker CLI through the machine's socket on the host, as issue, README and every user do it.

Some of the cases that are tested natively: with `--engine-host` all of tests/conformance runs on a machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.conformance.test_docker_cli_matrix import COMMANDS, OPTIONS, box
from tests.fakes.registries import random_bytes
from tests.harness import EngineElsewhere
from tests.vm.conftest import BootedMachine

__all__ = ["box"]

pytestmark = pytest.mark.timeout(300)

RUNS: list[tuple[list[str], bytes | None, int, str]] = [
    (["-i", "alpine", "cat"], b"through the machine\n", 0, "^through the machine$"),
    (["alpine", "sh", "-c", "exit 42"], None, 42, ""),
    (["-m", "64m", "alpine", "cat", "/sys/fs/cgroup/memory.max"], None, 0, "^67108864$"),
    (["--cpus", "0.5", "alpine", "cat", "/sys/fs/cgroup/cpu.max"], None, 0, "^50000 100000$"),
    (["--pids-limit", "20", "alpine", "cat", "/sys/fs/cgroup/pids.max"], None, 0, "^20$"),
    (["-m", "16m", "alpine", "tail", "/dev/zero"], None, 137, ""),
    (["alpine", "sh", "-c", "mknod /d b 8 0 && cat /d"], None, 1, "not permitted"),
]

OPTIONS_HERE = (
    "-a stdout",
    "--cap-drop ALL",
    "--init",
    "-t",
    "--sysctl net.ipv4.ip_forward=0",
    "-v /d",
    "--network none",
)
COMMANDS_HERE = (
    "ps -q --no-trunc -f name=^/box$ ",
    "ps -f volume=kept ",
    "inspect -f '{{(index ",
    "port box 99",
    "top box -o ",
    "logs -t ",
    "exec -e X=1 ",
    "exec box nosuch",
    "stats ",
    "cp box:/etc/passwd ",
    "volume rm kept",
    "rm box",
    "info ",
    "events --since 60m ",
)


def docker(machine: BootedMachine, *arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DOCKER_HOST": machine.manager.engine_host(machine.name)}
    command = ["docker", *arguments]
    return subprocess.run(command, env=environment, input=input, capture_output=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def engine(machine_home: BootedMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineElsewhere]:
    """The machine's; what the cases call busybox is its alpine."""
    machine_home.ensure_running()
    host = machine_home.manager.engine_host(machine_home.name)
    engine = EngineElsewhere(host, tmp_path_factory.mktemp("docker-config"))
    assert engine.docker("tag", "alpine", "busybox").returncode == 0
    yield engine
    assert engine.docker("rmi", "busybox").returncode == 0


def check(done: subprocess.CompletedProcess[bytes], code: int, pattern: str) -> None:
    assert done.returncode == code, done
    assert re.search(pattern, (done.stdout + done.stderr).decode().replace("\r", "").strip("\n"), re.MULTILINE), done


@pytest.mark.parametrize("arguments, input, code, pattern", RUNS, ids=[" ".join(case[0])[:50] for case in RUNS])
def test_run(machine: BootedMachine, arguments: list[str], input: bytes | None, code: int, pattern: str) -> None:
    check(docker(machine, "run", "--rm", *arguments, input=input), code, pattern)


def test_much_to_a_hijacked_stream_that_is_half_closed(machine: BootedMachine) -> None:
    data = random_bytes(20 << 20)
    done = docker(machine, "run", "-i", "--rm", "alpine", "sha256sum", input=data)
    assert done.stdout.decode().split()[:1] == [hashlib.sha256(data).hexdigest()], done


@pytest.mark.parametrize("options", OPTIONS_HERE)
def test_option(engine: EngineElsewhere, options: str) -> None:
    [(_, command, code, pattern)] = [case for case in OPTIONS if case[0] == options]
    check(engine.docker("run", "--rm", *options.split(), "busybox", *shlex.split(command)), code, pattern)


@pytest.mark.parametrize("beginning", COMMANDS_HERE)
@pytest.mark.usefixtures("box")
def test_command(engine: EngineElsewhere, beginning: str) -> None:
    [(arguments, code, pattern)] = [case for case in COMMANDS if f"{case[0]} ".startswith(beginning)]
    check(engine.docker(*shlex.split(arguments)), code, pattern)

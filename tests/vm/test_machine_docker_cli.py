"""The real docker CLI through the machine's socket on the host, as issue, README and every user do it."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.vm.conftest import BootedMachine

RUNS: list[tuple[list[str], bytes | None, int, str]] = [
    (["alpine", "echo", "hi"], None, 0, "^hi$"),
    (["-i", "alpine", "cat"], b"through the machine\n", 0, "^through the machine$"),
    (["alpine", "sh", "-c", "exit 42"], None, 42, ""),
    (["alpine", "nosuch"], None, 127, "not found"),
    (["-m", "64m", "alpine", "cat", "/sys/fs/cgroup/memory.max"], None, 0, "^67108864$"),
    (["--cpus", "0.5", "alpine", "cat", "/sys/fs/cgroup/cpu.max"], None, 0, "^50000 100000$"),
    (["--pids-limit", "20", "alpine", "cat", "/sys/fs/cgroup/pids.max"], None, 0, "^20$"),
    (["-m", "16m", "alpine", "tail", "/dev/zero"], None, 137, ""),
    (["alpine", "sh", "-c", "mknod /d b 8 0 && cat /d"], None, 1, "not permitted"),
    (["--init", "alpine", "cat", "/proc/1/comm"], None, 0, "init"),
]


def docker(machine: BootedMachine, *arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DOCKER_HOST": machine.manager.engine_host(machine.name)}
    command = ["docker", *arguments]
    return subprocess.run(command, env=environment, input=input, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments, input, code, pattern", RUNS, ids=[" ".join(case[0])[:50] for case in RUNS])
def test_run(machine: BootedMachine, arguments: list[str], input: bytes | None, code: int, pattern: str) -> None:
    done = docker(machine, "run", "--rm", *arguments, input=input)
    assert done.returncode == code, done
    assert re.search(pattern, (done.stdout + done.stderr).decode().strip(), re.MULTILINE), done

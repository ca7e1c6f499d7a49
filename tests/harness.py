"""A real engine in a temporary place, and a look at everything it may leave behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
START_TIMEOUT_S = 20


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float = 30) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineClient:
    """Speaks to an engine through its unix socket."""

    socket: Path
    docker_config: Path

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def instance(self) -> str:
        return str(self.get("/info")["ID"])

    def request(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = 30, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = UnixConnection(self.socket, timeout_s)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, (status, body)
        return json.loads(body)

    def post(self, path: str, body: Any = None, expect: int = 204) -> Any:
        status, answer = self.request("POST", path, body)
        assert status == expect, (status, answer)
        return json.loads(answer) if answer.strip() else None

    def message(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """The status and sentence of a refused request."""
        status, answer = self.request(method, path, body)
        return status, json.loads(answer)["message"]

    def load(self, archive: Path) -> None:
        status, body = self.request("POST", "/images/load", archive.read_bytes())
        assert status == 200 and b'"error"' not in body, body

    def docker(
        self, *arguments: str, input: bytes | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.docker_config)}
        return subprocess.run(
            ["docker", *arguments], env=environment, input=input, capture_output=True, timeout=timeout_s, check=False
        )


class EngineElsewhere(EngineClient):
    """An engine that was there before the tests, such as a machine's; a test that looks at its files is skipped."""

    def __init__(self, host: str, docker_config: Path) -> None:
        self.socket = Path(host.removeprefix("unix://"))
        self.docker_config = docker_config

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"asks for the engine's {name}, which only an engine of the test's own has")


class RunningEngine(EngineClient):
    """`wherryd` on directories of its own; `close()` shuts it down and fails if anything is left."""

    def __init__(self, root: Path, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.data_root = root / "data"
        self.run_dir = root / "run"
        self.socket = self.run_dir / "docker.sock"
        self.docker_config = self.run_dir / "docker-config"
        self._arguments = arguments
        self._prefix = prefix
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*self._prefix, sys.executable, "-m", "runtime", "daemon", "--data-root", str(self.data_root)]
        command += ["--run-dir", str(self.run_dir), "--host", self.host, *self._arguments]
        self.data_root.parent.mkdir(parents=True, exist_ok=True)
        with (self.data_root.parent / "wherryd.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert process.stdout
        ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        line = process.stdout.readline().decode() if ready else ""
        if line.strip() != f"API listen on {self.host}":
            process.kill()
            process.wait()
            process.stdout.close()
            raise AssertionError(f"wherryd did not start: {self.log()}")
        return process

    def log(self) -> str:
        return (self.data_root.parent / "wherryd.log").read_text()

    def launcher_pid(self) -> int:
        wanted = f"launcher\0--run-dir\0{self.run_dir}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # Inits that stand ready are copies of it under another name.
                if wanted in (process / "cmdline").read_bytes() and "launcher" in (process / "comm").read_text():
                    return int(process.name)
            except (FileNotFoundError, ProcessLookupError):
                continue
        raise AssertionError("no launcher runs")

    # --- ending it

    def stop(self) -> None:
        """SIGTERM: the engine goes, containers stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=START_TIMEOUT_S)
        assert self.process.stdout
        self.process.stdout.close()

    def restart(self) -> None:
        self.process = self._start()

    def shutdown(self) -> None:
        """`wherryd shutdown`, whether the engine lives or not."""
        subprocess.run(
            [sys.executable, "-m", "runtime", "daemon", "shutdown", "--run-dir", str(self.run_dir)],
            cwd=REPOSITORY,
            check=True,
            timeout=60,
        )
        if self.process.poll() is None:
            self.process.wait(timeout=START_TIMEOUT_S)
        assert self.process.stdout
        self.process.stdout.close()

    def close(self) -> None:
        instance = self._instance_of_disk()
        self.shutdown()
        assert leftovers(instance, self.data_root) == []

    def _instance_of_disk(self) -> str:
        from runtime.engine.settings import EngineSettings

        return EngineSettings(self.data_root, self.run_dir).instance


def leftovers(instance: str, data_root: Path) -> list[str]:
    """Everything in the kernel that still bears an engine's mark: processes, mounts, cgroups, links, tables."""
    found = []
    root = str(data_root)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                mounts = (process / "mountinfo").read_text()
            except OSError:  # it has ended meanwhile
                continue
            if f"{root}/snapshots" in mounts or f"{data_root.parent}/run --daemon" in command:
                found.append(f"process {process.name}: {command}")
    for directory, names, _ in os.walk("/sys/fs/cgroup"):  # rglob fails when another engine's go meanwhile
        found += [f"cgroup {directory}/{name}" for name in names if name == f"wherry-{instance}"]
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found += [f"link {name}" for name in re.findall(rf"\d+: (wherry{instance}\w*)", links)]
    masters = re.findall(rf"\d+: (wherry\w+)@.* master wherry{instance}", links)
    found += [f"veth {name}" for name in masters]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    found += [f"table {line}" for line in tables.splitlines() if f"wherry_{instance}" in line]
    return found

"""A launcher of a test's own, and containers in it, for the tests of this folder."""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime.launcher.client import LauncherClient, Started
from tests.fakes.bundles import make_bundle, make_overlay, make_rootfs, make_spec


class Result(NamedTuple):
    code: int
    out: str
    err: str


class LauncherProcess:
    """A launcher in the foreground, child of the test."""

    def __init__(self, run_dir: Path, *arguments: str) -> None:
        self.run_dir = run_dir
        # Its socket is there once the daemonizing parent has left; so a daemon, of which we learn the pid by hello.
        command = [sys.executable, "-m", "runtime", "launcher", "--run-dir", str(run_dir), "--daemon", *arguments]
        subprocess.run(command, check=True)
        with LauncherClient(run_dir) as client:
            self.pid = client.hello()["pid"]
        self._pidfd = os.pidfd_open(self.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait until the launcher is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)
        wait_for(self._pidfd)

    def close(self) -> None:
        self.kill()
        os.close(self._pidfd)

    def client(self) -> LauncherClient:
        return LauncherClient(self.run_dir)

    def open_fds(self) -> set[str]:
        return {os.readlink(entry.path) for entry in os.scandir(f"/proc/{self.pid}/fd")}


def mounts_below(directory: Path) -> list[str]:
    """What this namespace has mounted from or on something in `directory`."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]


def wait_for(fd: int, timeout_s: float = 10.0) -> None:
    """Wait until `fd` is readable: a pidfd's process has ended, a pipe has data or its end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(timeout_s * 1000), "nothing happened in time"


def read_to_end(fd: int) -> str:
    """Read `fd` to the end (EIO is a terminal's) and close it."""
    text = b""
    try:
        while chunk := os.read(fd, 65536):
            text += chunk
    except OSError as error:
        assert error.errno == 5, error
    os.close(fd)
    return text.decode()


class Lab:
    """Containers in one launcher; whatever still lives at the end is killed."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.rootfs = make_rootfs(directory / "image")
        self.launcher = LauncherProcess(directory / "run", *arguments)
        self.client = self.launcher.client()
        self._pidfds: list[int] = []
        self._exits: dict[tuple[str, str], dict[str, Any]] = {}
        self._names = (f"box{number}" for number in itertools.count())

    def close(self) -> None:
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_for(pidfd)
            os.close(pidfd)
        self.client.close()
        self.launcher.close()

    def bundle(self, spec: dict[str, Any]) -> tuple[str, Path, dict[str, Any]]:
        name = next(self._names)
        bundle = make_bundle(self.directory / name, spec)
        return name, bundle, make_overlay(bundle, self.rootfs)

    def start(
        self, spec: dict[str, Any], *, fds: Mapping[str, int] | None = None, join: list[str] | None = None
    ) -> "Box":
        """Start a container without waiting for its end; raises ProcessFault."""
        name, bundle, overlay = self.bundle(spec)
        return self.adopt(name, bundle, self.client.run(name, bundle, rootfs=overlay, join=join or [], fds=fds))

    def adopt(self, name: str, bundle: Path, started: Started) -> "Box":
        self._pidfds.append(started.pidfd)
        return Box(name, bundle, started)

    def run(self, spec: dict[str, Any], **more: Any) -> Result:
        """Run a container to its end."""
        with captured() as (fds, output):
            box = self.start(spec, fds=fds, **more)
        return self._result(box.name, "", output)

    def sh(self, script: str, spec: dict[str, Any] | None = None, **process: Any) -> Result:
        """Run a shell script in a container of its own."""
        spec = spec or make_spec(**process)
        spec["process"]["args"] = ["sh", "-c", script]
        return self.run(spec)

    def exec(self, box: "Box", *args: str, **process: Any) -> Result:
        """Execute in a running container, to the end."""
        with captured() as (fds, output):
            started = self.start_exec(box, "x", *args, fds=fds, **process)
        os.close(started.pidfd)
        return self._result(box.name, "x", output)

    def start_exec(
        self, box: "Box", exec_id: str, *args: str, fds: Mapping[str, int] | None = None, **process: Any
    ) -> Started:
        document = box.bundle / f"{exec_id}.json"
        document.write_text(json.dumps(make_spec(*args, **process)["process"]))
        return self.client.exec(box.name, exec_id, document, fds=fds)

    def _result(self, name: str, exec_id: str, output: tuple[int, int]) -> Result:
        out, err = (read_to_end(fd) for fd in output)
        event = self.exit_of(name, exec_id)
        self.client.ack(name, exec_id)
        return Result(event["code"], out, err)

    def exit_of(self, name: str, exec_id: str = "") -> dict[str, Any]:
        """Wait for the end of this process; others that end meanwhile can be asked for later."""
        while (name, exec_id) not in self._exits:
            event = self.client.next_exit()
            self._exits[event["id"], event["exec_id"]] = event
        return self._exits.pop((name, exec_id))

    def clean(self) -> None:
        """Kill and forget every container."""
        while self._pidfds:
            pidfd = self._pidfds.pop()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        for record in self.client.list():
            if record["exited"] is None:
                self.exit_of(record["id"], record["exec_id"])
            self.client.ack(record["id"], record["exec_id"])
        self._exits.clear()


class Box(NamedTuple):
    name: str
    bundle: Path
    started: Started

    def kill(self, number: int = signal.SIGKILL) -> None:
        signal.pidfd_send_signal(self.started.pidfd, number)
        wait_for(self.started.pidfd)


@contextlib.contextmanager
def captured() -> Iterator[tuple[dict[str, int], tuple[int, int]]]:
    """Pipes for stdout and stderr: the child's ends by name, closed here at the end, and ours."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    try:
        yield {"stdout": out_end, "stderr": err_end}, (out, err)
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(out_end)
        os.close(err_end)


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), "--cold")
    yield lab
    lab.close()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The module's launcher; checks that a test leaves no descriptor and no mount behind."""
    shared_lab.client.hello()  # it has accepted this connection, and closed any before
    fds, launcher_fds = set(os.listdir("/proc/self/fd")), shared_lab.launcher.open_fds()
    yield shared_lab
    shared_lab.clean()
    assert set(os.listdir("/proc/self/fd")) == fds
    left = shared_lab.launcher.open_fds() ^ launcher_fds
    assert not left, left
    assert mounts_below(shared_lab.directory) == []

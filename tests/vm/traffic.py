"""Clients that use a machine all the time, and know what they got, when, and what was missing.

One container counts in its log and echoes on a published port. A client streams through the port, one follows the log,
one follows the events, one executes commands, one asks how the machine is and then whether that is true.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.harness import UnixConnection
from tests.vm.conftest import BootedMachine
from vmbackend import MachineError

RECOVERED_WITHIN_S = 600
_PAUSE_S = 0.3
_HANGS_AFTER_S = 100.0
"""Nobody waits longer for an answer, whatever was killed: on a computer that is ten times slower than a usual one."""

NAME = "traffic"
_SERVE = "nc -lk -p 80 -e cat & i=0; while :; do i=$((i+1)); echo line $i; sleep 0.5; done"


def docker(machine: BootedMachine, *arguments: str, timeout_s: float = _HANGS_AFTER_S) -> str:
    """What a docker command that has to succeed prints."""
    environment = {**os.environ, "DOCKER_HOST": machine.manager.engine_host(machine.name)}
    done = subprocess.run(["docker", *arguments], env=environment, capture_output=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


@dataclass
class Client:
    """What one of the clients has seen. `answered_at` are the times at which the asking of each answer began."""

    name: str
    answered_at: list[float] = field(default_factory=list)
    interruptions: int = 0
    last_error: str = ""

    def answered(self, asked_at: float) -> None:
        self.answered_at.append(asked_at)

    def interrupted(self, error: object) -> None:
        self.interruptions += 1
        self.last_error = str(error)


class Traffic:
    """Runs inside its `with` block."""

    def __init__(self, machine: BootedMachine) -> None:
        self._machine = machine
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._followers: set[subprocess.Popen[bytes]] = set()
        self.clients: dict[str, Client] = {}
        self.wrongs: list[str] = []
        self.port = 0

    def __enter__(self) -> Traffic:
        self.port = free_port()  # an engine's own choice is another one after a power cut
        start = ("run", "-d", "--init", "--restart", "always", "--name", NAME, "-p", f"127.0.0.1:{self.port}:80")
        docker(self._machine, *start, "alpine", "sh", "-c", _SERVE)
        for name, work in (
            ("port", self._stream_port),
            ("logs", self._follow_logs),
            ("events", self._follow_events),
            ("exec", self._execute),
            ("status", self._check_status),
        ):
            self.clients[name] = client = Client(name)
            thread = threading.Thread(target=self._keep_at, args=(work, client), name=f"traffic-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self.wait_all_answered(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for follower in list(self._followers):
            follower.kill()
        for thread in self._threads:
            thread.join(2 * _HANGS_AFTER_S)
            assert not thread.is_alive(), f"{thread.name} hangs"
        docker(self._machine, "rm", "-f", NAME)
        assert self._machine.manager.forwards(self._machine.name) == []

    # --- what tests ask

    def wait_all_answered(self, since: float) -> dict[str, float]:
        """Until each client got an answer that it began to wait for after `since`; after how many seconds each did.

        Up to then nothing hung, and no machine was said to be running that did not answer.
        """
        deadline = time.monotonic() + RECOVERED_WITHIN_S
        while waiting := [name for name, client in self.clients.items() if max(client.answered_at, default=0) < since]:
            told = {name: self.clients[name].last_error for name in waiting}
            assert time.monotonic() < deadline, f"no answer since: {told}"
            time.sleep(0.05)
        assert not self.wrongs, self.wrongs
        now = {name: next(at for at in client.answered_at if at >= since) for name, client in self.clients.items()}
        return {name: round(at - since, 1) for name, at in now.items()}

    def interruptions(self) -> dict[str, int]:
        return {name: client.interruptions for name, client in self.clients.items()}

    def log(self) -> list[int]:
        """The container's whole log: the number of each line."""
        lines = docker(self._machine, "logs", NAME).splitlines()
        assert all(line.startswith("line ") for line in lines), lines
        return [int(line.removeprefix("line ")) for line in lines]

    # --- the clients

    def _keep_at(self, work: Any, client: Client) -> None:
        while not self._ending.is_set():
            try:
                work(client)
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                self.wrongs.append(f"{time.monotonic():.0f} {client.name} hangs: {error!r}")
            except (OSError, ValueError, AssertionError, MachineError) as error:
                client.interrupted(repr(error))
            self._ending.wait(_PAUSE_S)

    def _stream_port(self, client: Client) -> None:
        """One connection for as long as it lasts."""
        number = 0
        with socket.create_connection(("127.0.0.1", self.port), _HANGS_AFTER_S) as stream:
            stream.settimeout(_HANGS_AFTER_S)
            while not self._ending.is_set():
                number, asked_at = number + 1, time.monotonic()
                said = b"%012d" % number
                stream.sendall(said)
                heard = b""
                while len(heard) < len(said):
                    chunk = stream.recv(len(said))
                    if not chunk:
                        raise ConnectionError("the stream ended")
                    heard += chunk
                assert heard == said
                client.answered(asked_at)
                self._ending.wait(_PAUSE_S)

    def _follow_logs(self, client: Client) -> None:
        self._follow(client, "logs", "-f", "--tail", "1", NAME)

    def _follow_events(self, client: Client) -> None:
        """The client that executes commands makes events all the time."""
        self._follow(client, "events", "--filter", f"container={NAME}")

    def _follow(self, client: Client, *arguments: str) -> None:
        environment = {**os.environ, "DOCKER_HOST": self._machine.manager.engine_host(self._machine.name)}
        with subprocess.Popen(
            ["docker", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as follower:
            self._followers.add(follower)
            assert follower.stdout is not None
            said = b""
            try:
                while not self._ending.is_set() and (said := follower.stdout.readline() or b"") != b"":
                    if said.startswith(b"line ") or b" container " in said:
                        client.answered(time.monotonic())
                    else:
                        client.last_error = said.decode()
            finally:
                self._followers.discard(follower)
                follower.kill()
        if not self._ending.is_set():
            client.interrupted(client.last_error or "the stream ended")

    def _execute(self, client: Client) -> None:
        asked_at = time.monotonic()
        assert docker(self._machine, "exec", NAME, "echo", str(asked_at)) == str(asked_at)
        client.answered(asked_at)

    def _check_status(self, client: Client) -> None:
        """A machine that is said to be running answers; when it just broke, that is said the next time."""
        asked_at = time.monotonic()
        if self._said_to_run_but_silent() and (lie := self._said_to_run_but_silent()):
            self.wrongs.append(f"{time.monotonic():.0f} {lie}")
        elif self._machine.manager.status(self._machine.name).state == "running":
            client.answered(asked_at)

    def _said_to_run_but_silent(self) -> str:
        asked_at = time.monotonic()
        status = self._machine.manager.status(self._machine.name)
        if (took_s := time.monotonic() - asked_at) > _HANGS_AFTER_S:
            return f"the status took {took_s:.0f} s"
        if status.state != "running":
            self.clients["status"].last_error = f"{status.state} {status.reasons}"
            return ""
        try:
            ping(self._machine)
        except OSError as error:
            return f"{status.state}, but {error!r}"
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ping(machine: BootedMachine, timeout_s: float = _HANGS_AFTER_S) -> None:
    """Raises OSError when the engine does not answer on the machine's socket."""
    with contextlib.closing(UnixConnection(machine.paths.engine_socket, timeout_s)) as connection:
        connection.request("GET", "/_ping")
        response = connection.getresponse()
        if response.status != 200:
            raise ConnectionError(json.loads(response.read())["message"])


def in_guest(machine: BootedMachine, command: str) -> str:
    """What a command in the guest prints. Asked again while the guest's SSH server is away."""
    deadline = time.monotonic() + RECOVERED_WITHIN_S
    while True:
        try:
            with machine.manager.open_session(machine.name, command) as session:
                session.end_input()
                output = b""
                while chunk := session.read():
                    output += chunk
                return output.decode()
        except MachineError:
            assert time.monotonic() < deadline
            time.sleep(_PAUSE_S)


def wait_same_time(machine: BootedMachine, offset_s: float = 0) -> None:
    """Until the guest has this computer's time, or one that differs by `offset_s`."""
    deadline = time.monotonic() + RECOVERED_WITHIN_S
    while True:
        asked_at = time.time()
        told = int(in_guest(machine, "date +%s")) - offset_s
        if asked_at - 2 < told < time.time() + 2:
            return
        assert time.monotonic() < deadline, f"the guest's clock is wrong by {told - asked_at:.0f} s"


def assert_nothing_missing(log: list[int], runs: int) -> None:
    """Each of the processes that wrote it, one after the other, has counted from 1."""
    begun = [place for place, number in enumerate(log) if number == 1]
    assert len(begun) == runs, log
    for begin, end in zip(begun, [*begun[1:], len(log)], strict=True):
        assert log[begin:end] == list(range(1, end - begin + 1))

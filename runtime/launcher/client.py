"""A blocking client of the launcher, for tests and tools; the engine has its own on asyncio."""

import socket
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from runtime.errors import ProcessFault, Unavailable
from runtime.launcher import protocol


class Started(NamedTuple):
    """A process that has executed its program; the receiver owns the descriptors."""

    pid: int
    start_time: int
    pidfd: int
    console: int | None


class LauncherClient:
    """One connection to the launcher of `run_dir`; raises Unavailable if there is none."""

    def __init__(self, run_dir: Path, timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        self._seq = 0
        self._exits: deque[protocol.Message] = deque()
        self._replies: dict[int, deque[tuple[protocol.Message, dict[str, int]]]] = {}
        try:
            self._socket.connect(str(run_dir / protocol.SOCKET_NAME))
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise Unavailable(
                f"no launcher is running in {run_dir}: start the engine, or `python -m runtime launcher`"
            ) from None

    def __enter__(self) -> "LauncherClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def hello(self) -> protocol.Message:
        return self._ask({"op": "hello", "version": protocol.VERSION})[0]

    def run(
        self,
        id: str,
        bundle: Path,
        *,
        rootfs: protocol.Overlay | None = None,
        join: Sequence[str] = (),
        fds: Mapping[str, int] | None = None,
    ) -> Started:
        """Start a container and wait for its exec; raises ProcessFault."""
        return self.started(self.ask_run(id, bundle, rootfs=rootfs, join=join, fds=fds))

    def ask_run(
        self,
        id: str,
        bundle: Path,
        *,
        rootfs: protocol.Overlay | None = None,
        join: Sequence[str] = (),
        fds: Mapping[str, int] | None = None,
    ) -> int:
        """Ask for a container without waiting: returns what `started` takes."""
        message = {"op": "run", "id": id, "bundle": str(bundle), "rootfs": rootfs, "join": list(join)}
        return self._send(message, fds)

    def started(self, seq: int) -> Started:
        """Wait for a start asked for earlier; raises ProcessFault."""
        reply, fds = self._reply(seq)
        return Started(reply["pid"], reply["start_time"], fds["pidfd"], fds.get("console"))

    def exec(
        self,
        id: str,
        exec_id: str,
        process: Path,
        *,
        join: Sequence[str] = (),
        fds: Mapping[str, int] | None = None,
        bundle: Path | None = None,
    ) -> Started:
        """Start another process in a container; raises ProcessFault."""
        return self.started(self.ask_exec(id, exec_id, process, join=join, fds=fds, bundle=bundle))

    def ask_exec(
        self,
        id: str,
        exec_id: str,
        process: Path,
        *,
        join: Sequence[str] = (),
        fds: Mapping[str, int] | None = None,
        bundle: Path | None = None,
    ) -> int:
        """Ask for one without waiting: returns what `started` takes."""
        message = {"op": "exec", "id": id, "exec_id": exec_id, "process": str(process), "join": list(join)}
        if bundle is not None:
            message["bundle"] = str(bundle)
        return self._send(message, fds)

    def list(self) -> list[protocol.ProcessRecord]:
        seq = self._send({"op": "list"})
        records: list[protocol.ProcessRecord] = []
        more = True
        while more:
            reply, _ = self._reply(seq)
            records += reply["processes"]
            more = reply.get("more", False)
        return records

    def reopen(self, id: str, exec_id: str = "") -> dict[str, int]:
        """The kept descriptors by name, now also the caller's."""
        return self._ask({"op": "reopen", "id": id, "exec_id": exec_id})[1]

    def ack(self, id: str, exec_id: str = "") -> None:
        self._ask({"op": "ack", "id": id, "exec_id": exec_id})

    def drop(self, id: str, exec_id: str, names: Sequence[str]) -> None:
        self._ask({"op": "drop", "id": id, "exec_id": exec_id, "names": [*names]})

    def shutdown(self) -> None:
        self._ask({"op": "shutdown"})

    def next_exit(self) -> protocol.Message:
        """The next exit event; waits for one."""
        while not self._exits:
            self._receive()
        return self._exits.popleft()

    def _ask(
        self, message: dict[str, Any], fds: Mapping[str, int] | None = None
    ) -> tuple[protocol.Message, dict[str, int]]:
        return self._reply(self._send(message, fds))

    def _send(self, message: dict[str, Any], fds: Mapping[str, int] | None = None) -> int:
        self._seq += 1
        protocol.send(self._socket, {**message, "seq": self._seq}, fds)
        return self._seq

    def _reply(self, seq: int) -> tuple[protocol.Message, dict[str, int]]:
        while not self._replies.get(seq):
            self._receive()
        reply, fds = self._replies[seq].popleft()
        if not self._replies[seq]:
            del self._replies[seq]
        if not reply["ok"]:
            raise ProcessFault(reply["phase"], reply["errno"], reply["message"])
        return reply, fds

    def _receive(self) -> None:
        received = protocol.receive(self._socket)
        if received is None:
            raise Unavailable("the launcher closed the connection: it ended, or another engine connected")
        message, fds = received
        if message.get("event") == "exit":
            self._exits.append(message)
        else:
            self._replies.setdefault(message["seq"], deque()).append((message, fds))

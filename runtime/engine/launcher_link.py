"""The engine's side of the launcher protocol, on asyncio. See `runtime.launcher.protocol` for the messages.

The launcher is a process of its own that outlives the engine; when there is none, one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ProcessFault, SystemFault, Unavailable
from runtime.launcher import protocol

log = logging.getLogger(__name__)

NO_ROOM = (
    "too many open files: the engine has as many open as it may: end some containers or clients, or raise its limit "
    "(LimitNOFILE= of its unit, ulimit -n)"
)
CONNECT_TRIES = 50
CONNECT_PAUSE_S = 0.1

Key = tuple[str, str]  # container id, exec id ("" for the container's own process)


@dataclass(frozen=True)
class Exit:
    """How a process ended; `code` as a shell says it (128 + signal)."""

    code: int
    at_ns: int
    oom_killed: bool = False


@dataclass(frozen=True)
class Started:
    """A process that has executed its program. The receiver owns the fds."""

    pid: int
    start_time: int
    pidfd: int
    console: int | None


@dataclass(frozen=True)
class Known:
    """A process in the launcher's list: alive, or ended and not yet acknowledged."""

    key: Key
    pid: int
    start_time: int
    exited: Exit | None


Reply = tuple[dict[str, Any], dict[str, int]]


class LauncherLink:
    """One connection. `on_exit(key, exit)` is called until acknowledged, `on_lost()` when the launcher goes."""

    def __init__(
        self,
        run_dir: Path,
        on_exit: Callable[[Key, Exit], None],
        on_lost: Callable[[], None],
        socket_name: str = protocol.SOCKET_NAME,
    ) -> None:
        self._run_dir = run_dir
        self._path = str(run_dir / socket_name)
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._parts: dict[int, list[dict[str, Any]]] = {}
        self.pid = 0

    async def connect(self) -> None:
        """Connect to the running launcher, or start one; raises Unavailable or SystemFault."""
        try:
            connection = _connect(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            connection = await self._start()
        reply = await self._greet(connection)
        if reply["version"] != protocol.VERSION:
            self.close()
            raise SystemFault(
                f"the launcher with pid {self.pid} on {self._path} is of version {reply['version']}, and this engine "
                f"needs {protocol.VERSION}: end its containers and it, and start the engine again"
            )

    async def connect_earlier(self) -> bool:
        """Connect to a launcher of an earlier version, for what it has; False if none answers there."""
        try:
            connection = _connect(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        await self._greet(connection)
        return True

    async def _greet(self, connection: socket.socket) -> dict[str, Any]:
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection, self._readable)
        reply, _ = await self._ask({"op": "hello", "version": protocol.VERSION})
        self.pid = reply["pid"]
        return reply

    async def _start(self) -> socket.socket:
        """Start a launcher; another that is just coming up serves as well."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runtime", "launcher", "--run-dir", str(self._run_dir), "--daemon"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        for _ in range(CONNECT_TRIES):
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return _connect(self._path)
            if not process.returncode:
                break
            await asyncio.sleep(CONNECT_PAUSE_S)
        raise SystemFault(f"the launcher did not start: {errors.decode(errors='replace').strip()}")

    async def run(
        self,
        id: str,
        bundle: Path,
        rootfs: Mapping[str, Any],
        join: list[str],
        fds: Mapping[str, int],
    ) -> Started:
        """Start a container; raises ProcessFault with the phase and errno its init reported."""
        message = {"op": "run", "id": id, "bundle": str(bundle), "rootfs": dict(rootfs), "join": join}
        return _started(await self._ask(message, fds))

    async def exec(
        self, key: Key, bundle: Path, process: Path, join: list[str], fork: bool, fds: Mapping[str, int]
    ) -> Started:
        """Start another process in a running container; raises ProcessFault.

        The fd `container`, a pidfd of its init, lets a launcher serve containers that another one started.
        """
        message = {
            "op": "exec",
            "id": key[0],
            "exec_id": key[1],
            "bundle": str(bundle),
            "process": str(process),
            "join": join,
            "fork": fork,
        }
        return _started(await self._ask(message, fds))

    async def processes(self) -> list[Known]:
        reply, _ = await self._ask({"op": "list"})
        return [
            Known((entry["id"], entry["exec_id"]), entry["pid"], entry["start_time"], _exit(entry["exited"]))
            for entry in reply["processes"]
        ]

    async def reopen(self, key: Key) -> dict[str, int]:
        """The kept fds by name, `pidfd` and `console` among them where they are; the caller owns them."""
        _, fds = await self._ask({"op": "reopen", "id": key[0], "exec_id": key[1]})
        return fds

    def ack(self, key: Key) -> None:
        """Forget an ended process. Nothing is awaited: a lost acknowledgement only repeats the exit."""
        with contextlib.suppress(Unavailable):
            self._send({"op": "ack", "id": key[0], "exec_id": key[1]}, {})

    def drop(self, key: Key, names: list[str]) -> None:
        with contextlib.suppress(Unavailable):
            self._send({"op": "drop", "id": key[0], "exec_id": key[1], "names": names}, {})

    async def shutdown(self) -> None:
        """End the launcher; it refuses while it has live children (SystemFault)."""
        await self._ask({"op": "shutdown"})

    def close(self) -> None:
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the launcher went away: try again"))
        self._waiting.clear()

    async def _ask(self, message: dict[str, Any], fds: Mapping[str, int] | None = None) -> Reply:
        sequence = self._send(message, fds or {})
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = future
        try:
            reply, received = await future
        finally:
            self._waiting.pop(sequence, None)
        if not reply["ok"]:
            raise ProcessFault(reply["phase"], reply["errno"], reply["message"])
        return reply, received

    def _send(self, message: dict[str, Any], fds: Mapping[str, int]) -> int:
        if self._socket is None:
            raise Unavailable("the launcher is not running: try again in a moment")
        self._sequence += 1
        try:
            protocol.send(self._socket, {**message, "seq": self._sequence}, fds)
        except OSError as error:
            raise Unavailable(f"the launcher does not take requests ({error.strerror}): try again") from None
        return self._sequence

    def _readable(self) -> None:
        assert self._socket is not None
        while self._socket:
            try:
                received = protocol.receive(self._socket)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNRESET:
                    raise
                received = None
            except protocol.ProtocolError as error:
                log.error("the launcher says what nobody understands: %s", error)
                received = None
            if received is None:
                self.close()
                self._on_lost()
                return
            self._dispatch(*received)

    def _dispatch(self, message: dict[str, Any], fds: dict[str, int]) -> None:
        if message.get("event") == "exit":
            self._on_exit((message["id"], message["exec_id"]), _required_exit(message))
            return
        future = self._waiting.get(message["seq"])
        if future is None or future.done():
            for fd in fds.values():  # the asker is gone
                os.close(fd)
            return
        if protocol.has_lost_fds(message, fds):
            future.set_exception(ProcessFault("engine", errno.EMFILE, NO_ROOM))
            return
        if "processes" in message:  # a long list comes in parts
            message["processes"] = self._parts.pop(message["seq"], []) + message["processes"]
            if message.get("more"):
                self._parts[message["seq"]] = message["processes"]
                return
        future.set_result((message, fds))


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


def _started(reply: Reply) -> Started:
    message, fds = reply
    return Started(message["pid"], message["start_time"], fds["pidfd"], fds.get("console"))


def _required_exit(document: Mapping[str, Any]) -> Exit:
    return Exit(document["code"], document["at_ns"], bool(document.get("oom")))


def _exit(document: Mapping[str, Any] | None) -> Exit | None:
    return _required_exit(document) if document else None

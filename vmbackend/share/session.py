"""One share's connection to the agent in the guest, and the thread that serves it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmbackend.errors import GuestUnreachable
from vmbackend.share import wire
from vmbackend.share.echo import Change, Echo
from vmbackend.share.plan import Share
from vmbackend.share.server import ShareServer
from vmbackend.share.tree import Tree

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 20.0
_MAX_BATCH = 200
_SENT_AT_ONCE_BYTES = 16 * 1024
_MAX_WAITING = 20_000
_OWN_FOR_S = 2.0
_MAX_OWN = 4096

_log = logging.getLogger(__name__)


class AgentAddress:
    """Where the agent is reached on this computer. Methods raise GuestUnreachable."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """One request that ends with its answer."""
        stream, answer = self.begin(op, **arguments)
        stream.close()
        return answer

    def begin(self, op: str, **arguments: object) -> tuple[socket.socket, dict[str, Any]]:
        """A connection after its first answer, which is returned too."""
        stream: socket.socket | None = None
        try:
            stream = socket.create_connection(("127.0.0.1", self._port), _CONNECT_TIMEOUT_S)
            stream.settimeout(_ANSWER_TIMEOUT_S)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.sendall(json.dumps({"token": self._token, "op": op, **arguments}).encode() + b"\n")
            line = bytearray()
            while not line.endswith(b"\n"):
                byte = stream.recv(1)
                if not byte:
                    raise OSError("it hung up")
                line += byte
            answer: dict[str, Any] = json.loads(line)
            if not answer["ok"]:
                raise OSError(answer["error"])
        except (OSError, ValueError, KeyError) as error:
            if stream is not None:
                stream.close()
            raise GuestUnreachable(f"The shares' agent in the guest did not {op} ({error})") from error
        stream.settimeout(None)
        return stream, answer


class ShareSession:
    """Serves one share until closed; a lost connection is made again by `attach`."""

    def __init__(self, share: Share, journal: Path, on_lost: Callable[[], None]) -> None:
        self.share = share
        self.tree = Tree(share.host_path, journal)
        self._server = ShareServer(self.tree, share.read_only, self._guest_changed)
        self._on_lost = on_lost
        self._own: dict[tuple[int, bytes], float] = {}
        self._echo = Echo(self._server, share.guest_path)
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=_MAX_WAITING)
        self._stream: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def attached(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def attach(self, address: AgentAddress) -> None:
        """Mount the share if it is not, and serve it. Raises GuestUnreachable, OSError."""
        self.detach()
        stream, answer = address.begin("attach", path=self.share.guest_path)
        if answer["mounted"]:
            self.tree.nodes.begin()
        else:
            self.tree.nodes.take_over()
        self._echo.begin(answer["echo_tid"])
        self._stream = stream
        name = f"share-{self.share.guest_path}"
        self._thread = threading.Thread(target=self._serve, args=(stream,), name=name, daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """End the connection; what is mounted stays and waits for the next one."""
        stream, thread, self._stream, self._thread = self._stream, self._thread, None, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        if thread is not None:
            thread.join()

    def close(self) -> None:
        self.detach()
        self._server.close()

    def tell(self, changes: list[Change]) -> None:
        """Let the guest know of changes made here; from any thread. Those it made itself it knows."""
        with self._lock:
            self._changes.extend(change for change in changes if not self._is_own(change))
            self._tell_next()

    def _guest_changed(self, parent: int, name: bytes) -> None:
        if len(self._own) >= _MAX_OWN:
            recent = time.monotonic() - _OWN_FOR_S
            self._own = {key: when for key, when in self._own.items() if when > recent}
        self._own[parent, name] = time.monotonic()

    def _is_own(self, change: Change) -> bool:
        key = self._echo.key(change.path)
        return key is not None and self._own.get(key, 0.0) > time.monotonic() - _OWN_FOR_S

    def _tell_next(self) -> None:
        """With the lock held."""
        stream = self._stream
        while stream is not None and self._echo.idle and self._changes:
            batch: list[Change] = []
            told: set[tuple[bytes, ...]] = set()
            while self._changes and len(batch) < _MAX_BATCH:
                paths = {self._changes[0].path, self._changes[0].new_path} - {()}
                if told & paths:
                    break
                told |= paths
                batch.append(self._changes.popleft())
            if message := self._echo.batch(batch):
                with contextlib.suppress(OSError):
                    stream.sendall(message)

    def _serve(self, stream: socket.socket) -> None:
        buffer = bytearray(4 * wire.MAX_MESSAGE_BYTES)
        view = memoryview(buffer)
        start = end = 0
        try:
            with stream:
                while got := stream.recv_into(view[end:]):
                    end += got
                    answers: list[bytes] = []
                    while end - start >= 4:
                        size = int.from_bytes(view[start : start + 4], "little")
                        if end - start < size:
                            break
                        self._take(view[start : start + size], answers)
                        start += size
                        if answers and len(answers[-1]) > _SENT_AT_ONCE_BYTES:
                            self._send(stream, answers)
                    self._send(stream, answers)
                    if start == end:
                        start = end = 0
                    elif end > wire.MAX_MESSAGE_BYTES:
                        buffer[: end - start] = buffer[start:end]
                        start, end = 0, end - start
        except OSError as error:
            _log.info("the connection of share %s ended: %s", self.share.guest_path, error)
        if self._stream is stream:
            self._on_lost()

    def _take(self, message: memoryview, answers: list[bytes]) -> None:
        request = wire.parse(message)
        with self._lock:
            server = self._echo if request.pid == self._echo.tid else self._server
            answer = server.answer(request)
        if answer is not None:
            answers.append(answer)

    def _send(self, stream: socket.socket, answers: list[bytes]) -> None:
        if answers:
            data = answers[0] if len(answers) == 1 else b"".join(answers)
            answers.clear()
            with self._lock:
                stream.sendall(data)
                self._tell_next()

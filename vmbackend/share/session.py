"""One share on the channel to the agent in the guest, and the thread that serves it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from pathlib import Path
from queue import Empty

from vmbackend.share import wire
from vmbackend.share.channel import AgentAddress, AgentChannel, Messages
from vmbackend.share.echo import Change, Echo
from vmbackend.share.plan import Share
from vmbackend.share.server import ShareServer
from vmbackend.share.tree import Tree

_MAX_BATCH = 200
_SENT_AT_ONCE_BYTES = 16 * 1024
_MAX_WAITING = 20_000
_OWN_FOR_S = 2.0
_MAX_OWN = 4096

_log = logging.getLogger(__name__)


class ShareSession:
    """Serves one share until closed; after the channel was lost, by `attach` again."""

    def __init__(self, share: Share, journal: Path, channel: AgentChannel) -> None:
        self.share = share
        self.tree = Tree(share.host_path, journal)
        self._server = ShareServer(self.tree, share.read_only, self._guest_changed)
        self._channel = channel
        self._own: dict[tuple[int, bytes], float] = {}
        self._echo = Echo(self._server, share.guest_path)
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=_MAX_WAITING)
        self._number = 0
        self._thread: threading.Thread | None = None

    @property
    def attached(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def attach(self, address: AgentAddress) -> None:
        """Mount the share if it is not, and serve it. Raises GuestUnreachable, OSError."""
        self.detach()
        number, messages = self._channel.open()
        try:
            answer = address.ask("attach", path=self.share.guest_path, number=number)
            if answer["mounted"]:
                self.tree.nodes.begin()
            else:
                self.tree.nodes.take_over()
        except BaseException:
            self._channel.close_share(number)
            raise
        self._echo.begin(answer["echo_tid"])
        self._number = number
        name = f"share-{self.share.guest_path}"
        self._thread = threading.Thread(target=self._serve, args=(number, messages), name=name, daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """Serve it no more; what is mounted stays and waits for who serves it next."""
        thread, self._thread = self._thread, None
        self._channel.close_share(self._number)
        self._number = 0
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
        number = self._number
        while number and self._echo.idle and self._changes:
            batch: list[Change] = []
            told: set[tuple[bytes, ...]] = set()
            while self._changes and len(batch) < _MAX_BATCH:
                paths = {self._changes[0].path, self._changes[0].new_path} - {()}
                if told & paths:
                    break
                told |= paths
                batch.append(self._changes.popleft())
            if messages := self._echo.batch(batch):
                with contextlib.suppress(OSError):
                    self._channel.send(number, messages)

    def _serve(self, number: int, messages: Messages) -> None:
        answers: list[bytes] = []
        size = 0
        try:
            while (message := messages.get()) is not None:
                size += self._take(message, answers)
                # What is small and comes together is answered together.
                while size <= _SENT_AT_ONCE_BYTES:
                    try:
                        message = messages.get_nowait()
                    except Empty:
                        break
                    if message is None:
                        return
                    size += self._take(message, answers)
                if answers:
                    with self._lock:
                        self._channel.send(number, answers)
                        self._tell_next()
                    answers, size = [], 0
        except OSError as error:
            _log.info("share %s is not served any more: %s", self.share.guest_path, error)

    def _take(self, message: memoryview, answers: list[bytes]) -> int:
        """The size of the answer, which is added to the others."""
        request = wire.parse(message)
        with self._lock:
            server = self._echo if request.pid == self._echo.tid else self._server
            answer = server.answer(request)
        if answer is None:
            return 0
        answers.append(answer)
        return len(answer)

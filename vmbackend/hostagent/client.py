"""The other side of the control socket, and how a hostagent is started. Blocking."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from vmbackend import host
from vmbackend.errors import HostagentUnreachable, error_of_kind
from vmbackend.hostagent.protocol import decode, encode
from vmbackend.machine.events import MachineEvent, StateChanged, event_from_json
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import ProcessRecord

_CONNECT_TIMEOUT_S = 2.0
_MAX_LOG_BYTES = 1024 * 1024


class HostagentClient:
    """Talks to the hostagent of a record. Methods raise the hostagent's errors, and HostagentUnreachable."""

    def __init__(self, name: str, record: ProcessRecord) -> None:
        self._name = name
        self.record = record

    @classmethod
    def find(cls, paths: MachinePaths) -> "HostagentClient | None":
        """The machine's living hostagent; a stale record, also one whose pid was reused, is none."""
        record = ProcessRecord.read(paths.hostagent_record)
        return cls(paths.name, record) if record and record.is_alive() else None

    def request(
        self,
        op: str,
        answer_timeout_s: float | None,
        on_event: Callable[[MachineEvent], None] = lambda event: None,
        **arguments: object,
    ) -> Any:
        """Send a request and wait for its result; `answer_timeout_s` bounds the silence before each line."""
        message = {"token": self.record.details["token"], "op": op, **arguments}
        try:
            with (
                host.connect_local(self.record.details["address"], _CONNECT_TIMEOUT_S) as stream,
                stream.makefile("rb") as lines,
            ):
                stream.settimeout(answer_timeout_s)
                stream.sendall(encode(message))
                while True:
                    answer = decode(lines.readline())
                    if "event" not in answer:
                        break
                    event = event_from_json(answer["event"])
                    if event is not None:
                        on_event(event)
        except (OSError, ValueError) as error:
            raise self._silent() from error
        if not answer["ok"]:
            raise error_of_kind(answer["kind"], answer["error"])
        return answer["result"]

    def open(self, op: str) -> socket.socket:
        """Send a request and return the stream with its answers. Raises HostagentUnreachable."""
        try:
            stream = host.connect_local(self.record.details["address"], _CONNECT_TIMEOUT_S)
            try:
                stream.sendall(encode({"token": self.record.details["token"], "op": op}))
                stream.settimeout(None)
            except OSError:
                stream.close()
                raise
        except OSError as error:
            raise self._silent() from error
        return stream

    def _silent(self) -> HostagentUnreachable:
        return HostagentUnreachable(
            f"The hostagent (pid {self.record.pid}) of machine `{self._name}` does not answer; "
            "stopping the machine with force ends it."
        )


class MachineEvents:
    """An iterator over a machine's events, which ends with the hostagent, or when `close` is called from any thread.

    The last event is what `look` finds when there is no hostagent, any more or from the start.
    """

    def __init__(self, client: HostagentClient | None, look: Callable[[], StateChanged]) -> None:
        self._look: Callable[[], StateChanged] | None = look
        self._last_state: StateChanged | None = None
        self._stream = client.open("events") if client is not None else None
        self._lines = self._stream.makefile("rb") if self._stream is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._lines is not None and self._stream is not None:
            self._lines.close()
            self._stream.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MachineEvent:
        event = self._read()
        if event is None:
            look, self._look = self._look, None
            event = look() if look is not None else None
            if event is None or event == self._last_state:
                raise StopIteration
        if isinstance(event, StateChanged):
            self._last_state = event
        return event

    def _read(self) -> MachineEvent | None:
        """The hostagent's next event that this version knows, None when there will be none."""
        while self._lines is not None:
            try:
                event = event_from_json(decode(self._lines.readline())["event"])
            except (OSError, ValueError, KeyError):
                return None
            if event is not None:
                return event
        return None

    def close(self) -> None:
        """End the iteration, also one that waits in another thread."""
        self._look = None
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.shutdown(socket.SHUT_RDWR)


def spawn_hostagent(paths: MachinePaths) -> None:
    """Start the machine's hostagent, which starts the machine; returns when it answers requests.

    Raises MachineError when it says that it cannot, HostagentUnreachable when it says nothing, OSError.
    """
    log = paths.hostagent_log
    fresh = not log.exists() or log.stat().st_size > _MAX_LOG_BYTES
    with log.open("wb" if fresh else "ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "vmbackend.hostagent", "--machine", str(paths.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            **host.detached_process_options(),
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    # It is meant to outlive us; if we outlive it, somebody has to take note of its end.
    threading.Thread(target=process.wait, name="hostagent-reaper", daemon=True).start()
    try:
        answer = decode(line)
    except ValueError:
        raise HostagentUnreachable(
            f"The hostagent of machine `{paths.name}` ended without a word; `{log}` may say why."
        ) from None
    if not answer["ok"]:
        raise error_of_kind(answer["kind"], answer["error"])

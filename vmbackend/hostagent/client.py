"""The other side of the control socket, and how a hostagent is started. Blocking."""

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from vmbackend import host
from vmbackend.errors import HostagentUnreachable, error_of_kind
from vmbackend.hostagent.protocol import decode, encode
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
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
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
                    on_event(answer["event"])
        except (OSError, ValueError) as error:
            raise HostagentUnreachable(
                f"The hostagent (pid {self.record.pid}) of machine `{self._name}` does not answer; "
                "stopping the machine with force ends it."
            ) from error
        if not answer["ok"]:
            raise error_of_kind(answer["kind"], answer["error"])
        return answer["result"]


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

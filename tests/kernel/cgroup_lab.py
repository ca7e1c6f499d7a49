"""Forked children for the tests of limits and filters: one that answers once, one that lives in a cgroup."""

import json
import os
import select
import signal
import traceback
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 10.0


def in_child(function: Callable[[], Any]) -> Any:
    """Run `function` in a forked child and return its (JSON) result; what it raises fails the test."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"result": function()}
        except BaseException:  # noqa: BLE001 - it crosses the pipe
            answer = {"failure": traceback.format_exc()}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert text, f"the child died: status {os.waitstatus_to_exitcode(status)}"
    answer = json.loads(text)
    assert "failure" not in answer, answer["failure"]
    return answer["result"]


def errno_of(function: Callable[[], Any]) -> int:
    """Return the errno `function` fails with, 0 if it works; a descriptor it returns is closed."""
    try:
        result = function()
    except OSError as error:
        assert error.errno
        return error.errno
    if isinstance(result, int):
        os.close(result)
    return 0


def enter(join_paths: list[str]) -> None:
    """Join a cgroup as a container's init does."""
    for path in join_paths:
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, b"0")
        os.close(fd)


class Member:
    """A process in a cgroup that calls `behave` for every byte it is sent, and answers with a byte."""

    def __init__(self, join_paths: list[str], behave: Callable[[], None] = lambda: None) -> None:
        asked, self._ask = os.pipe()
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ask)
            try:
                enter(join_paths)
                os.write(answering, b"joined")
                while os.read(asked, 1):
                    behave()
                    os.write(answering, b".")
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answering)
        self.pidfd = os.pidfd_open(self.pid)
        self.status: int | None = None
        assert os.read(self._answer, 6) == b"joined"

    def ask(self) -> None:
        os.write(self._ask, b".")

    def answers(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Whether an answer comes in time."""
        ready, _, _ = select.select([self._answer], [], [], timeout_s)
        return bool(ready) and os.read(self._answer, 1) == b"."

    def wait(self) -> int:
        """Return the exit code, negative for a signal."""
        if self.status is None:
            ready, _, _ = select.select([self.pidfd], [], [], TIMEOUT_S)
            assert ready, "the process lives on"
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def close(self) -> None:
        if self.status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.wait()
        for fd in (self._ask, self._answer, self.pidfd):
            os.close(fd)

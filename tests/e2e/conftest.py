"""`wherry` as people run it: a process, its own engine in a temporary place, and a terminal where one is needed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes.images import busybox_image_tar
from tests.harness import leftovers

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 30


class Wherry:
    """The command line, with everything it keeps below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data_root = root / "data"
        self.run_dir = root / "run"
        self.socket = self.run_dir / "docker.sock"
        self.environment = {
            **os.environ,
            "HOME": str(root / "home"),
            "XDG_STATE_HOME": str(root / "state"),
            "WHERRY_DATA_ROOT": str(self.data_root),
            "WHERRY_RUN_DIR": str(self.run_dir),
            "COLUMNS": "120",
        }
        (root / "home").mkdir()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "app", *arguments]

    def __call__(
        self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env={**self.environment, **(environment or {})},
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode("utf-8", "replace")
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def instance(self) -> str:
        from runtime.engine.settings import EngineSettings

        return EngineSettings(self.data_root, self.run_dir).instance

    def shut_down(self) -> None:
        """`wherry down`, after which nothing of the engine is left in the kernel."""
        ended = self("down")
        assert ended.returncode == 0, ended.stderr
        assert leftovers(self.instance(), self.data_root) == []


class Terminal:
    """`wherry` on a terminal of its own, 40 rows by 100 columns."""

    def __init__(self, wherry: Wherry, *arguments: str) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            os.execve(sys.executable, wherry.command(*arguments), {**wherry.environment, "TERM": "xterm"})
        self.resize(40, 100)
        self.screen = b""
        self._code: int | None = None

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, text: bytes) -> None:
        """Read until `text` has appeared since the last call."""
        while text not in self.screen:
            data = self._read()
            assert data, f"the terminal ended with {self.screen!r}"
            self.screen += data
        self.screen = self.screen.partition(text)[2]

    def wait(self) -> int:
        """Read to the end; the exit code."""
        while data := self._read():
            self.screen += data
        _, status = os.waitpid(self.pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def close(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._master], [], [], TIMEOUT_S)
        assert ready, f"nothing came for {TIMEOUT_S} s after {self.screen!r}"
        try:
            return os.read(self._master, 4096)
        except OSError:  # EIO: the other side is closed
            return b""


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_image_tar(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture(scope="session")
def shared_wherry(tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path) -> Iterator[Wherry]:
    wherry = Wherry(tmp_path_factory.mktemp("cli"))
    started = wherry("up")
    assert started.returncode == 0, started.stderr
    loaded = wherry("load", "-i", str(busybox_archive))
    assert loaded.returncode == 0, loaded.stderr
    yield wherry
    wherry.shut_down()


@pytest.fixture
def wherry(shared_wherry: Wherry) -> Iterator[Wherry]:
    """An engine with the image `busybox`; containers a test leaves are removed."""
    yield shared_wherry
    left = shared_wherry("ps", "-aq").stdout.split()
    if left:
        assert shared_wherry("rm", "-f", *left).returncode == 0


@pytest.fixture
def fresh_wherry(tmp_path: Path) -> Iterator[Wherry]:
    """No engine runs yet."""
    wherry = Wherry(tmp_path)
    yield wherry
    wherry.shut_down()


@pytest.fixture
def terminal(wherry: Wherry) -> Iterator[type[Terminal]]:
    """Call it with arguments of `wherry`."""
    opened: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal(wherry, *arguments))
        return opened[-1]

    yield open_terminal  # type: ignore[misc]
    for each in opened:
        each.close()

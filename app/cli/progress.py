"""Signs of life on standard error, for people only: nothing is drawn unless it is a terminal."""

import sys
import threading
import time
from types import TracebackType
from typing import Self

from app.cli.output import human_size

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
_PATIENCE_S = 1.0  # what is quicker than this needs no spinner
_BAR_WIDTH = 30
_CLEAR_LINE = "\r\x1b[K"


class StatusLine:
    """A line at the bottom of the terminal that is rewritten, and gone in the end."""

    def __init__(self) -> None:
        self._shown = False
        self.visible = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self.visible:
            sys.stderr.write(_CLEAR_LINE + text)
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
            self._shown = False


class Activity:
    """A spinner with the name of what is being done; as plain lines where there is no terminal."""

    def __init__(self) -> None:
        self._line = StatusLine()
        self._text = ""
        self._done = threading.Event()
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._spin, name="spinner", daemon=True)

    def phase(self, text: str) -> None:
        """What is being done from now on."""
        if text != self._text and not self._line.visible:
            sys.stderr.write(f"{text}\n")
        self._text = text

    def __enter__(self) -> Self:
        if self._line.visible:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._line.visible:
            self._thread.join()
            self._line.clear()

    def _spin(self) -> None:
        self._done.wait(_PATIENCE_S)
        step = 0
        while not self._done.wait(_FRAME_S):
            elapsed_s = time.monotonic() - self._began_s
            self._line.show(f"{_FRAMES[step % len(_FRAMES)]} {self._text} ({elapsed_s:.0f} s)")
            step += 1


class ByteBar:
    """How much of an upload is done. `total_bytes` is None when nobody knows."""

    def __init__(self, title: str, total_bytes: int | None) -> None:
        self._line = StatusLine()
        self._title = title
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._drawn_s = 0.0

    @property
    def visible(self) -> bool:
        return self._line.visible

    def expect(self, total_bytes: int) -> None:
        """More became known of what there is to do."""
        self._total_bytes = total_bytes

    def pause(self) -> None:
        """Out of the way, until the next step."""
        self._line.clear()

    def advance(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        now_s = time.monotonic()
        if now_s - self._drawn_s >= _FRAME_S:
            self._drawn_s = now_s
            self._line.show(self._text())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.clear()

    def _text(self) -> str:
        done = human_size(self._done_bytes)
        if not self._total_bytes:
            return f"{self._title} {done}"
        filled = min(_BAR_WIDTH, _BAR_WIDTH * self._done_bytes // self._total_bytes)
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        return f"{self._title} {bar} {done} of {human_size(self._total_bytes)}"

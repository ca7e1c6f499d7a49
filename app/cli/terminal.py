"""The user's own terminal while a program in a container has it: raw mode, size, and the keys that let go of it."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator

DETACH_KEYS = b"\x10\x11"  # ctrl-p, ctrl-q


class DetachKeys:
    """Watches typed bytes for the detach sequence. A beginning of it is held back until it is known to be none."""

    def __init__(self, sequence: bytes = DETACH_KEYS) -> None:
        self._sequence = sequence
        self._matched = 0

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether to detach)."""
        passed = bytearray()
        for byte in typed:
            if byte != self._sequence[self._matched]:
                passed += self._sequence[: self._matched]
                self._matched = 0
            if byte == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    self._matched = 0
                    return bytes(passed), True
            else:
                passed.append(byte)
        return bytes(passed), False


def size() -> tuple[int, int]:
    """(rows, columns) of the terminal that shows the output."""
    columns, rows = shutil.get_terminal_size()
    with contextlib.suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    return rows, columns


if sys.platform == "win32":
    import ctypes
    import msvcrt

    # https://learn.microsoft.com/windows/console/setconsolemode: everything off but the translation of keys.
    _ENABLE_VIRTUAL_TERMINAL_INPUT = 0x0200
    _ENABLE_VIRTUAL_TERMINAL_PROCESSING = 0x0004
    _OUTPUT_MODE = 0x0001 | _ENABLE_VIRTUAL_TERMINAL_PROCESSING | 0x0008

    @contextlib.contextmanager
    def raw_mode() -> Iterator[None]:
        """Every key goes to the container, and its output is shown as it is, until the end of the block."""
        kernel32 = ctypes.windll.kernel32
        wanted = ((sys.stdin, _ENABLE_VIRTUAL_TERMINAL_INPUT), (sys.stdout, _OUTPUT_MODE))
        saved = []
        for stream, mode in wanted:
            handle = msvcrt.get_osfhandle(stream.fileno())
            before = ctypes.c_uint32()
            if kernel32.GetConsoleMode(handle, ctypes.byref(before)):
                saved.append((handle, before.value))
                kernel32.SetConsoleMode(handle, mode)
        try:
            yield
        finally:
            for handle, mode in saved:
                kernel32.SetConsoleMode(handle, mode)

else:

    @contextlib.contextmanager
    def raw_mode() -> Iterator[None]:
        """Every key goes to the container, and its output is shown as it is, until the end of the block."""
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        try:
            tty.setraw(descriptor)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

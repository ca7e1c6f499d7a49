"""A Windows named pipe that looks like the few methods of a socket an HTTP client needs.

The handle is opened overlapped: on a synchronous handle Windows serialises reads and writes, and an attached
terminal that waits for output could never send input.
"""

import io
import sys
from typing import Any

if sys.platform == "win32":
    import _winapi

    _GENERIC_READ_WRITE = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
    _BUSY_WAIT_MS = 5000
    _ENDED = (_winapi.ERROR_BROKEN_PIPE, _winapi.ERROR_OPERATION_ABORTED)

    class PipeSocket:
        """A connected byte stream over `\\\\.\\pipe\\NAME`; `OSError` as from a socket."""

        def __init__(self, path: str, timeout_s: float | None) -> None:
            self._handle = _open(path)
            self._timeout_s = timeout_s
            self._reading: _winapi.Overlapped | None = None

        def settimeout(self, timeout_s: float | None) -> None:
            self._timeout_s = timeout_s

        def sendall(self, data: Any) -> None:
            view = memoryview(data)
            while view:
                overlapped, _ = _winapi.WriteFile(self._handle, bytes(view), overlapped=True)
                written, _ = overlapped.GetOverlappedResult(True)
                view = view[written:]

        def recv_into(self, buffer: memoryview) -> int:
            try:
                overlapped, _ = _winapi.ReadFile(self._handle, len(buffer), overlapped=True)
                self._reading = overlapped
                self._wait(overlapped)
                count, error = overlapped.GetOverlappedResult(True)
            except OSError as failed:
                if failed.winerror in _ENDED:
                    return 0
                raise
            finally:
                self._reading = None
            if error not in (0, _winapi.ERROR_MORE_DATA):
                return 0
            received = overlapped.getbuffer()
            buffer[:count] = received[:count] if received else b""
            return count

        def _wait(self, overlapped: "_winapi.Overlapped") -> None:
            if self._timeout_s is None:
                return
            if _winapi.WaitForSingleObject(overlapped.event, int(self._timeout_s * 1000)) != 0:
                overlapped.cancel()
                raise TimeoutError("timed out")

        def makefile(self, mode: str = "rb", *_: Any, **__: Any) -> io.BufferedReader:
            return io.BufferedReader(_PipeReader(self))

        def close_write(self) -> None:
            """Pipes have no half-close: a message of no bytes means end of input (go-winio's CloseWrite)."""
            overlapped, _ = _winapi.WriteFile(self._handle, b"", overlapped=True)
            overlapped.GetOverlappedResult(True)

        def abort(self) -> None:
            """Make a read that is waiting in another thread return."""
            reading = self._reading
            if reading is not None:
                reading.cancel()

        def close(self) -> None:
            handle, self._handle = self._handle, 0
            if handle:
                _winapi.CloseHandle(handle)

    class _PipeReader(io.RawIOBase):
        def __init__(self, pipe: PipeSocket) -> None:
            self._pipe = pipe

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self._pipe.recv_into(memoryview(buffer))

    def _open(path: str) -> int:
        while True:
            try:
                return _winapi.CreateFile(
                    path,
                    _GENERIC_READ_WRITE,
                    0,
                    _winapi.NULL,
                    _winapi.OPEN_EXISTING,
                    _winapi.FILE_FLAG_OVERLAPPED,
                    _winapi.NULL,
                )
            except OSError as failed:
                if failed.winerror != _winapi.ERROR_PIPE_BUSY:
                    raise
                _winapi.WaitNamedPipe(path, _BUSY_WAIT_MS)

"""A Windows named pipe as the byte stream that `app.engine.transport` needs.

The handle is opened overlapped: on a synchronous handle Windows serialises reads and writes, and an attached
terminal that waits for output could never send input.
"""

import sys

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

        def sendall(self, data: bytes) -> None:
            view = memoryview(data)
            while view:
                overlapped, _ = _winapi.WriteFile(self._handle, bytes(view), overlapped=True)
                written, _ = overlapped.GetOverlappedResult(True)
                view = view[written:]

        def recv(self, most: int) -> bytes:
            try:
                overlapped, _ = _winapi.ReadFile(self._handle, most, overlapped=True)
                self._reading = overlapped
                self._wait(overlapped)
                overlapped.GetOverlappedResult(True)
            except OSError as failed:
                if failed.winerror in _ENDED:
                    return b""
                raise
            finally:
                self._reading = None
            return bytes(overlapped.getbuffer() or b"")

        def _wait(self, overlapped: "_winapi.Overlapped") -> None:
            if self._timeout_s is None:
                return
            if _winapi.WaitForSingleObject(overlapped.event, int(self._timeout_s * 1000)) != 0:
                overlapped.cancel()
                raise TimeoutError("timed out")

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

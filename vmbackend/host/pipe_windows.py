"""The engine's named pipe on Windows.

Message type, byte read mode, as Docker's own daemon does it: a message of no bytes is how a client closes its
sending half (go-winio, `win32MessageBytePipe.CloseWrite`). All input and output is overlapped, because a
handle opened for synchronous use lets no write through while a read waits.
"""

import _winapi
import ctypes
import sys
from ctypes import wintypes
from pathlib import Path

assert sys.platform == "win32"

_FILE_FLAG_OVERLAPPED = 0x40000000
_FILE_FLAG_FIRST_PIPE_INSTANCE = 0x00080000
_PIPE_TYPE_MESSAGE = 0x4
_PIPE_REJECT_REMOTE_CLIENTS = 0x8
_BUFFER_BYTES = 64 * 1024
_ERROR_BROKEN_PIPE = 109
_ERROR_PIPE_NOT_CONNECTED = 233
_ERROR_MORE_DATA = 234
_ERROR_OPERATION_ABORTED = 995
_GONE = (_ERROR_BROKEN_PIPE, _ERROR_PIPE_NOT_CONNECTED, _ERROR_OPERATION_ABORTED)

# SDDL: protected; full access for the pipe's owner and for the system, nobody else.
_OWNER_ONLY = "D:P(A;;GA;;;OW)(A;;GA;;;SY)"


class _SecurityAttributes(ctypes.Structure):
    """SECURITY_ATTRIBUTES, minwinbase.h."""

    _fields_ = [
        ("nLength", wintypes.DWORD),
        ("lpSecurityDescriptor", ctypes.c_void_p),
        ("bInheritHandle", wintypes.BOOL),
    ]


def _pipe_path(name: str) -> str:
    return rf"\\.\pipe\wherry-{name}"


def engine_host(name: str, socket_path: Path) -> str:
    return f"npipe:////./pipe/wherry-{name}"


class PipeStream:
    """One end of a connected pipe, with the verbs a forward needs."""

    def __init__(self, handle: int, timeout_s: float | None = None) -> None:
        self._handle = handle
        self._hung_up = False
        self.set_timeout(timeout_s)

    def peer_pid(self) -> int:
        """The client's process."""
        pid = wintypes.DWORD()
        ctypes.windll.kernel32.GetNamedPipeClientProcessId(wintypes.HANDLE(self._handle), ctypes.byref(pid))
        return int(pid.value)

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long `recv` and `sendall` wait before they raise TimeoutError; None for ever."""
        self._timeout_ms = _winapi.INFINITE if timeout_s is None else int(timeout_s * 1000)

    def recv(self, size_bytes: int) -> bytes:
        """At most that many bytes; none when the peer closed its sending half or is gone. Raises TimeoutError."""
        if self._hung_up:
            return b""
        try:
            operation, _ = _winapi.ReadFile(self._handle, size_bytes, overlapped=True)
            count, error = self._finish(operation)
            if error in _GONE:
                return b""
            return bytes(operation.getbuffer() or b"")[:count]
        except OSError as error_raised:
            if error_raised.winerror in _GONE:
                return b""
            raise

    def sendall(self, data: bytes) -> None:
        while data:
            operation, _ = _winapi.WriteFile(self._handle, data, overlapped=True)
            count, _ = self._finish(operation)
            data = data[count:]

    def shutdown_write(self) -> None:
        operation, _ = _winapi.WriteFile(self._handle, b"", overlapped=True)
        self._finish(operation)

    def wait_hangup(self) -> None:
        while self.recv(_BUFFER_BYTES):
            pass

    def hang_up(self) -> None:
        """End both directions, waking whatever thread waits in one."""
        self._hung_up = True
        handle = wintypes.HANDLE(self._handle)
        # The first is for the server's end; the second, for the client's, which cannot disconnect.
        if not ctypes.windll.kernel32.DisconnectNamedPipe(handle):
            ctypes.windll.kernel32.CancelIoEx(handle, None)

    def close(self) -> None:
        """Give the handle back; only once no other thread uses the stream."""
        _winapi.CloseHandle(self._handle)

    def _finish(self, operation: _winapi.Overlapped) -> tuple[int, int]:
        if _winapi.WaitForSingleObject(operation.event, self._timeout_ms) != _winapi.WAIT_OBJECT_0:
            operation.cancel()
            raise TimeoutError("the named pipe did not answer in time")
        return operation.GetOverlappedResult(True)


class EngineListener:
    """A pipe has no backlog: the next instance is made before the connected one is handed out."""

    def __init__(self, name: str, socket_path: Path) -> None:
        self._path = _pipe_path(name)
        self._closed = False
        self._next = self._instance(_FILE_FLAG_FIRST_PIPE_INSTANCE)

    def accept(self) -> PipeStream:
        """Block for the next client. Raises OSError once closed."""
        if self._closed:
            raise OSError(_ERROR_OPERATION_ABORTED, "the pipe is closed")
        operation = _winapi.ConnectNamedPipe(self._next, overlapped=True)
        operation.GetOverlappedResult(True)
        connected, self._next = self._next, self._instance(0)
        return PipeStream(connected)

    def close(self) -> None:
        self._closed = True
        _winapi.CloseHandle(self._next)

    def _instance(self, first: int) -> int:
        attributes, descriptor = _owner_only()
        try:
            return _winapi.CreateNamedPipe(
                self._path,
                _winapi.PIPE_ACCESS_DUPLEX | _FILE_FLAG_OVERLAPPED | first,
                _PIPE_TYPE_MESSAGE | _PIPE_REJECT_REMOTE_CLIENTS,
                _winapi.PIPE_UNLIMITED_INSTANCES,
                _BUFFER_BYTES,
                _BUFFER_BYTES,
                0,
                ctypes.addressof(attributes),
            )
        finally:
            ctypes.windll.kernel32.LocalFree(descriptor)


def _owner_only() -> tuple[_SecurityAttributes, ctypes.c_void_p]:
    descriptor = ctypes.c_void_p()
    convert = ctypes.windll.advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    if not convert(_OWNER_ONLY, 1, ctypes.byref(descriptor), None):
        raise ctypes.WinError()
    return _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor.value, False), descriptor


def connect_engine(name: str, socket_path: Path, timeout_s: float) -> PipeStream:
    """Be a client of the engine's pipe. Raises OSError."""
    path = _pipe_path(name)
    _winapi.WaitNamedPipe(path, int(timeout_s * 1000))
    handle = _winapi.CreateFile(
        path,
        _winapi.GENERIC_READ | _winapi.GENERIC_WRITE,
        0,
        _winapi.NULL,
        _winapi.OPEN_EXISTING,
        _FILE_FLAG_OVERLAPPED,
        _winapi.NULL,
    )
    return PipeStream(handle, timeout_s)

"""What Linux and macOS share."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmbackend.host.ports import bind_port

assert sys.platform != "win32"

# A unix socket with a full backlog refuses a client that does not block (EAGAIN) instead of letting it wait.
_BACKLOG = 1024

TAKES_PAGES_BACK = True

# Darwin's sys/un.h; Python has no names for them.
_SOL_LOCAL = 0
_LOCAL_PEERPID = 2


# Whether QEMU outlives a killed hostagent, so that the next one can take it over.
ORPHANS_LIVE_ON = True


def kill_process(pid: int) -> None:
    """End a process at once; one that is gone already is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def detached_process_options() -> dict[str, Any]:
    """A session of its own: neither a closed terminal nor Ctrl-C there reaches the child."""
    return {"start_new_session": True}


def tie_to_this_process(pid: int) -> None:
    """Nothing: QEMU may outlive a killed hostagent here, so that the next one can take it over."""


def make_private(path: Path) -> None:
    path.chmod(0o700 if path.is_dir() else 0o600)


def disk_usage_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file, or return False when another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def bind_local(path: Path) -> socket.socket:
    """Listen on a unix socket of mode 0600, replacing a stale one. The caller must hold the machine's lock."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Created closed to others, rather than closed afterwards: there is no moment at which they could connect.
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def listen_tcp(address: str, port: int) -> socket.socket:
    """Listen on a TCP port, 0 for any; on an IPv6 address for IPv6 alone. Raises OSError when it cannot be had."""
    # A port just given up may be taken again at once.
    return bind_port(address, port, socket.SOCK_STREAM, socket.SO_REUSEADDR, _BACKLOG)


def bind_udp(address: str, port: int) -> socket.socket:
    """As `listen_tcp`, for datagrams."""
    return bind_port(address, port, socket.SOCK_DGRAM, None)


def connect_local(address: str, timeout_s: float) -> socket.socket:
    """Connect to `unix:PATH`. Raises OSError."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout_s)
        stream.connect(address.removeprefix("unix:"))
    except OSError:
        stream.close()
        raise
    return stream


@contextlib.contextmanager
def executable_memory(code: bytes) -> Iterator[int]:
    """The address of machine code that may be called inside the block. Raises OSError where that is forbidden."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        view = ctypes.c_char.from_buffer(memory)
        try:
            yield ctypes.addressof(view)
        finally:
            del view  # the mapping cannot be closed while it is looked at


def engine_host(name: str, socket_path: Path) -> str:
    return f"unix://{socket_path}"


class UnixStream:
    """A connected stream socket with the four verbs a forward needs."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream

    def peer_pid(self) -> int:
        """The process at the other end, as it was when it connected."""
        if sys.platform == "darwin":
            return self._socket.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)  # struct ucred begins with it

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long `recv` and `sendall` wait before they raise TimeoutError; None for ever."""
        self._socket.settimeout(timeout_s)

    def recv(self, size_bytes: int) -> bytes:
        return self._socket.recv(size_bytes)

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def shutdown_write(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def wait_hangup(self) -> None:
        """Return when the peer is gone for good, or both directions were shut down."""
        poll = select.poll()
        poll.register(self._socket, 0)
        poll.poll()

    def hang_up(self) -> None:
        """End both directions, waking whatever thread waits in one."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Give the descriptor back; only once no other thread uses the stream."""
        self._socket.close()


class EngineListener:
    """The engine's unix socket on this computer."""

    def __init__(self, name: str, socket_path: Path) -> None:
        self._path = socket_path
        self._listener = bind_local(socket_path)

    def accept(self) -> UnixStream:
        """Block for the next client. Raises OSError once closed."""
        stream, _ = self._listener.accept()
        return UnixStream(stream)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()


def connect_engine(name: str, socket_path: Path, timeout_s: float) -> UnixStream:
    """Be a client of the engine's socket. Raises OSError."""
    return UnixStream(connect_local(f"unix:{socket_path}", timeout_s))

"""HTTP/1.1 to an engine over a unix socket, a Windows named pipe, or TCP on this computer.

Built on `http.client` rather than `requests`: importing `requests` takes longer (about 120 ms) than a whole
`wherry ps` may (100 ms), and an engine on a local socket needs none of what it adds (TLS, proxies, cookies,
redirects, pools). Whatever goes to the Internet still uses `requests`.

Each call has a connection of its own. On a local socket that costs a fraction of a millisecond, it makes a
client usable from any number of threads, and closing a stream can never disturb another call.
"""

import contextlib
import http.client
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit
from weakref import WeakSet

from app.engine.errors import EngineError, EngineUnreachable

Query = Mapping[str, str | int | bool | None]

READ_CHUNK_BYTES = 64 * 1024


class ByteStream(Protocol):
    """The part of a socket that HTTP needs; a named pipe has it too."""

    def sendall(self, data: Any, /) -> None: ...
    def settimeout(self, timeout_s: float | None, /) -> None: ...
    def close_write(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


class _Socket(socket.socket):
    """A socket that can be half-closed and woken under the names a pipe has as well."""

    def close_write(self) -> None:
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Make a read that is waiting in another thread return end of file."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Address:
    """Where an engine listens: `scheme` is unix, npipe, or http; `target` a path or `host:port`."""

    scheme: str
    target: str

    @classmethod
    def parse(cls, host: str) -> "Address":
        """`unix:///path`, `npipe:////./pipe/NAME`, `http://127.0.0.1:PORT` or `tcp://…` as in DOCKER_HOST.

        Raises EngineUnreachable for anything else.
        """
        scheme, separator, rest = host.partition("://")
        if separator and rest:
            if scheme == "unix":
                return cls("unix", rest)
            if scheme == "npipe":
                return cls("npipe", rest.replace("/", "\\"))
            if scheme in ("http", "tcp") and urlsplit(host).port:
                return cls("http", rest.rstrip("/"))
        raise EngineUnreachable(
            host,
            "address",
            f"{host!r} is not an engine address.",
            "Use unix:///path/to/socket, npipe:////./pipe/name or http://127.0.0.1:port.",
        )

    def connect(self, timeout_s: float | None) -> Any:
        """A connected ByteStream. Raises OSError."""
        if sys.platform == "win32":
            if self.scheme == "npipe":
                from app.engine.pipe import PipeSocket

                return PipeSocket(self.target, timeout_s)
        elif self.scheme == "unix":
            return _connected(socket.AF_UNIX, self.target, timeout_s)
        if self.scheme == "http":
            name, _, port = self.target.rpartition(":")
            family = socket.AF_INET6 if name.startswith("[") else socket.AF_INET
            return _connected(family, (name.strip("[]"), int(port)), timeout_s)
        raise OSError(f"{self.scheme}:// does not exist on this system")


def _connected(family: int, peer: Any, timeout_s: float | None) -> _Socket:
    connection = _Socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(peer)
    except BaseException:
        connection.close()
        raise
    return connection


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: Address, timeout_s: float | None) -> None:
        super().__init__("localhost" if address.scheme != "http" else address.target)
        self._address = address
        self._connect_timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = self._address.connect(self._connect_timeout_s)


class Response:
    """An answer whose body is read while it arrives. `close()` may come from any thread."""

    def __init__(self, host: str, raw: http.client.HTTPResponse, stream: ByteStream) -> None:
        self._host = host
        self._raw = raw
        self.stream = stream
        self.status = raw.status
        self._closed = False

    def header(self, name: str) -> str:
        return self._raw.getheader(name, "")

    def read(self) -> bytes:
        """The whole body; closes the connection."""
        try:
            return self._raw.read()
        except (OSError, http.client.HTTPException) as failed:
            raise _lost(self._host, failed) from failed
        finally:
            self.close()

    def read_some(self) -> bytes:
        """The next bytes of the body as soon as there are any; b"" at its end or once closed.

        Raises EngineUnreachable if the connection breaks.
        """
        return self._receive(self._raw.read1)

    def read_raw(self) -> bytes:
        """As `read_some`, but for a connection that is no longer HTTP (attach, exec)."""
        return self._receive(self._raw.fp.read1)

    def _receive(self, read1: Any) -> bytes:
        if self._closed:
            return b""
        try:
            data: bytes = read1(READ_CHUNK_BYTES)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as failed:
            # Closing from another thread takes the file away under the read: that is the end, not a fault.
            if self._closed:
                return b""
            raise _lost(self._host, failed) from failed
        return data

    def close(self) -> None:
        self._closed = True
        self.stream.abort()
        self.stream.close()
        self._raw.close()

    def abort(self) -> None:
        """End a read that is waiting in another thread; that thread then closes."""
        self._closed = True
        self.stream.abort()


class Transport:
    """Requests to one engine.

    `timeout_s` bounds connecting and the wait for the first line of an answer. Bodies that go on for as
    long as their subject does (logs, events, attach) are read without a limit.
    """

    def __init__(self, host: str, timeout_s: float, prefix: str) -> None:
        """`prefix` begins every path: the API's version."""
        self.host = host
        self.timeout_s = timeout_s
        self._prefix = prefix
        self._address = Address.parse(host)
        self._streams: WeakSet[Any] = WeakSet()

    def close(self) -> None:
        """End every answer that is still being read or waited for."""
        for stream in list(self._streams):
            stream.abort()

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> Response:
        """Send a request and return once the answer's head is there.

        `patient` waits for the head without a limit, for calls that answer when their work is done.
        Raises EngineError for a status of 400 and above, EngineUnreachable if nothing answers.
        """
        limit_s = None if patient else (timeout_s or self.timeout_s)
        connection = _Connection(self._address, self.timeout_s)
        try:
            try:
                connection.connect()
            except OSError as failed:
                raise _no_connection(self.host, failed) from failed
            stream: Any = connection.sock
            self._streams.add(stream)
            stream.settimeout(limit_s)
            target = _target(self._prefix + path, query)
            raw = self._exchange(connection, method, target, body, dict(headers or {}))
            # The body may take as long as it takes, except after a limit meant for the whole call.
            stream.settimeout(limit_s if timeout_s else None)
        except BaseException:
            connection.close()
            raise
        response = Response(self.host, raw, stream)
        if raw.status >= 400:
            raise EngineError(raw.status, _message(response.read(), raw.status, raw.reason))
        return response

    def _exchange(
        self,
        connection: _Connection,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # An engine that refuses an upload answers before it has read it all: the answer still counts.
                connection.request(method, target, body, headers, encode_chunked=chunked)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as failed:
            raise _lost(self.host, failed) from failed

    def json(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        payload: Any = None,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> Any:
        """A request with an optional JSON body whose answer is JSON (None when it is empty)."""
        body = None if payload is None else json.dumps(payload).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        answer = self.open(method, path, query, body, headers, timeout_s, patient).read()
        return json.loads(answer) if answer else None


def segment(name: str) -> str:
    """A name or reference as one segment of a path; the `/` of image names stays, as Docker's routes want."""
    return quote(name, safe="/:@")


def _target(path: str, query: Query | None) -> str:
    given = {
        name: ("1" if value else "0") if isinstance(value, bool) else value
        for name, value in (query or {}).items()
        if value is not None
    }
    return f"{path}?{urlencode(given)}" if given else path


def _message(body: bytes, status: int, reason: str) -> str:
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict) and isinstance(parsed.get("message"), str):
        return str(parsed["message"])
    return body.decode("utf-8", "replace").strip() or f"{status} {reason}"


def _no_connection(host: str, failed: OSError) -> EngineUnreachable:
    if isinstance(failed, PermissionError):
        return EngineUnreachable(
            host,
            "denied",
            f"You may not open the engine's socket {host}.",
            "Join the group that owns the socket (`ls -l` names it) and log in again, "
            "or stop the engine as root and start it with `wherry up` as yourself.",
        )
    if isinstance(failed, TimeoutError):
        return EngineUnreachable(
            host,
            "silent",
            f"The engine at {host} does not accept connections.",
            "Restart it: `wherry down`, then `wherry up`.",
        )
    if isinstance(failed, FileNotFoundError | ConnectionRefusedError):
        return EngineUnreachable(host, "absent", f"No engine is running at {host}.", "Start it with `wherry up`.")
    return EngineUnreachable(
        host,
        "address",
        f"The engine at {host} cannot be reached: {failed}.",
        "Check the address, or run `wherry doctor`.",
    )


def _lost(host: str, failed: Exception) -> EngineUnreachable:
    if isinstance(failed, TimeoutError):
        return EngineUnreachable(
            host,
            "silent",
            f"The engine at {host} did not answer in time.",
            "Run `wherry doctor` to see what it is waiting for.",
        )
    return EngineUnreachable(
        host,
        "lost",
        f"The engine at {host} closed the connection in the middle of an answer.",
        "It may have stopped: run `wherry status`.",
    )

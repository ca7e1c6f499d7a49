"""HTTP/1.1 to an engine over a unix socket, a Windows named pipe, or TCP on this computer.

Built on h11 rather than on `requests`: importing `requests` takes longer (about 120 ms)
than a whole `wherry ps` may (100 ms), and an engine on a local socket needs none of what it adds (TLS, proxies,
cookies, redirects, pools). Whatever goes to the Internet still uses `requests`.

Each call has a connection of its own. On a local socket that costs a fraction of a millisecond, it makes a client
usable from any number of threads, and closing a stream can never disturb another call.
"""

import contextlib
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit
from weakref import WeakSet

import h11

from app.engine.errors import EngineError, EngineUnreachable

Query = Mapping[str, str | int | bool | None]
Body = bytes | Iterable[bytes] | None

_READ_BYTES = 64 * 1024


class ByteStream(Protocol):
    """The part of a socket that HTTP needs; a named pipe has it too. All raise OSError."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, most: int, /) -> bytes: ...
    def settimeout(self, timeout_s: float | None, /) -> None: ...

    def close_write(self) -> None:
        """Tell the peer that no more will be sent."""

    def abort(self) -> None:
        """Make a `recv` that waits in another thread return b""."""

    def close(self) -> None: ...


class _Socket(socket.socket):
    def close_write(self) -> None:
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
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
            if scheme in ("http", "tcp") and _port(host):
                return cls("http", rest.rstrip("/"))
        raise EngineUnreachable(
            host,
            "address",
            f"{host!r} is not an engine address.",
            "Use unix:///path/to/socket, npipe:////./pipe/name or http://127.0.0.1:port.",
        )

    def connect(self, timeout_s: float | None) -> ByteStream:
        """Raises OSError."""
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


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None


def _connected(family: int, peer: Any, timeout_s: float | None) -> _Socket:
    connection = _Socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(peer)
    except BaseException:
        connection.close()
        raise
    return connection


class _Exchange:
    """One request and its answer, event by event, on one connection."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._switched = False
        self._early = b""  # what came together with the head of a switch

    def send(self, request: h11.Request, body: Body) -> None:
        """Raises OSError. An engine that refuses an upload hangs up before it is complete: its answer still counts."""
        pieces = [body] if isinstance(body, bytes) else body or ()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(request)
            for piece in pieces:
                self._send(h11.Data(data=piece))
            self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self.stream.sendall(data)

    def head(self) -> h11.Response | h11.InformationalResponse:
        """The answer's head, or that of a switch to another protocol. Raises OSError, h11.RemoteProtocolError."""
        while True:
            event = self._next()
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                self._switched = True
                self._early, _ = self._http.trailing_data
                return event
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("closed before it answered")

    def body(self) -> bytes:
        """The next bytes as they arrive, b"" at the end; also after a switch. Raises as `head` does."""
        if self._switched:
            early, self._early = self._early, b""
            return early or self.stream.recv(_READ_BYTES)
        event = self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self.stream.recv(_READ_BYTES))
        return event


class Response:
    """An answer whose body is read while it arrives."""

    def __init__(self, host: str, exchange: _Exchange, head: h11.Response | h11.InformationalResponse) -> None:
        self.stream = exchange.stream
        self.status = head.status_code
        self.reason = head.reason.decode("latin-1")
        self._host = host
        self._exchange = exchange
        self._headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        self._aborted = False

    def header(self, name: str) -> str:
        return self._headers.get(name.lower(), "")

    def read(self) -> bytes:
        """The whole body; closes the connection. Raises EngineUnreachable if it breaks."""
        try:
            return b"".join(iter(self.read_some, b""))
        finally:
            self.close()

    def read_some(self) -> bytes:
        """The next bytes as soon as there are any; b"" at the end or once aborted.

        Raises EngineUnreachable if the connection breaks.
        """
        if self._aborted:
            return b""
        try:
            return self._exchange.body()
        except (OSError, h11.RemoteProtocolError) as failed:
            if self._aborted:
                return b""
            raise _lost(self._host, failed) from failed

    def close(self) -> None:
        """For the thread that reads."""
        self.abort()
        self.stream.close()

    def abort(self) -> None:
        """End a read that is waiting in another thread; that thread then closes."""
        self._aborted = True
        self.stream.abort()


class Transport:
    """Requests to one engine.

    `timeout_s` bounds connecting and the wait for the head of an answer. Bodies that go on for as long as their
    subject does (logs, events, attach) are read without a limit.
    """

    def __init__(self, host: str, timeout_s: float, prefix: str) -> None:
        """`prefix` begins every path: the API's version."""
        self.host = host
        self.timeout_s = timeout_s
        self._prefix = prefix
        self._address = Address.parse(host)
        self._streams: WeakSet[ByteStream] = WeakSet()

    def close(self) -> None:
        """End every answer that is still being read or waited for."""
        for stream in list(self._streams):
            stream.abort()

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> Response:
        """Send a request and return once the answer's head is there.

        `timeout_s` bounds the whole call; `patient` waits for the head without a limit, for calls that answer when
        their work is done. Raises EngineError for a status of 400 and above, EngineUnreachable if nothing answers.
        """
        try:
            stream = self._address.connect(timeout_s or self.timeout_s)
        except OSError as failed:
            raise _no_connection(self.host, failed) from failed
        self._streams.add(stream)
        exchange = _Exchange(stream)
        try:
            stream.settimeout(None if patient else (timeout_s or self.timeout_s))
            exchange.send(_request(method, _target(self._prefix + path, query), body, headers or {}), body)
            head = exchange.head()
            stream.settimeout(timeout_s)
        except (OSError, h11.RemoteProtocolError) as failed:
            stream.close()
            raise _lost(self.host, failed) from failed
        except BaseException:
            stream.close()
            raise
        response = Response(self.host, exchange, head)
        if response.status >= 400:
            raise EngineError(response.status, _message(response.read(), response.status, response.reason))
        return response

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


def _request(method: str, target: str, body: Body, headers: Mapping[str, str]) -> h11.Request:
    sent = {"Host": "wherry", "User-Agent": "wherry", "Connection": "close", **headers}
    if isinstance(body, bytes):
        sent["Content-Length"] = str(len(body))
    elif body is not None:
        sent["Transfer-Encoding"] = "chunked"
    elif method == "POST":
        sent["Content-Length"] = "0"
    return h11.Request(method=method, target=target, headers=list(sent.items()))


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

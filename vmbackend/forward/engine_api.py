"""The few Engine API calls the hostagent makes, through the same socket everybody else uses.

So a probe that succeeds has gone the whole way: local socket, relay, SSH, guest, engine.
"""

import http.client
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from vmbackend import host
from vmbackend.errors import GuestUnreachable


class _Stream(Protocol):
    def set_timeout(self, timeout_s: float | None, /) -> None: ...
    def recv(self, size_bytes: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def hang_up(self) -> None: ...
    def close(self) -> None: ...


class EngineSilent(GuestUnreachable):
    """The engine, or something on the way to it, says nothing at all."""


class EngineApi:
    """Methods block and raise GuestUnreachable."""

    def __init__(self, name: str, socket_path: Path) -> None:
        self._name = name
        self._socket_path = socket_path

    def ping(self, timeout_s: float) -> None:
        """Ask `/_ping`."""
        with self._get("/_ping", timeout_s) as response:
            response.read()

    def containers(self, timeout_s: float) -> list[dict[str, Any]]:
        """The running containers, as in `GET /containers/json`."""
        with self._get("/containers/json", timeout_s) as response:
            containers: list[dict[str, Any]] = json.load(response)
            return containers

    @contextmanager
    def container_events(self, timeout_s: float) -> Iterator["EventStream"]:
        """Starts and ends of containers from now on; `timeout_s` bounds the time to the first answer only."""
        filters = json.dumps({"type": ["container"], "event": ["start", "die", "destroy"]})
        stream = self._connect(timeout_s)
        try:
            response = self._request(stream, f"/events?filters={quote(filters)}")
            stream.set_timeout(None)
            yield EventStream(stream, response)
        finally:
            stream.close()

    @contextmanager
    def _get(self, target: str, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
        stream = self._connect(timeout_s)
        try:
            yield self._request(stream, target)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise GuestUnreachable(f"The engine did not answer {target} ({error or type(error).__name__})") from error
        finally:
            stream.close()

    def _connect(self, timeout_s: float) -> _Stream:
        try:
            return host.connect_engine(self._name, self._socket_path, timeout_s)
        except OSError as error:
            raise GuestUnreachable(f"The engine's socket on this computer does not answer ({error})") from error

    def _request(self, stream: _Stream, target: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("wherry")
        connection.sock = _HttpSocket(stream)
        try:
            connection.request("GET", target, headers={"Connection": "close"})
            response = connection.getresponse()
        except TimeoutError as error:
            raise EngineSilent(f"The engine did not answer {target} in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise GuestUnreachable(f"The engine did not answer {target} ({error or type(error).__name__})") from error
        if response.status != 200:
            raise GuestUnreachable(f"The engine answered {target} with {response.status}: {_message(response)}")
        return response


class EventStream:
    """`wait` in one thread; `end` from any other ends it."""

    def __init__(self, stream: _Stream, response: http.client.HTTPResponse) -> None:
        self._stream = stream
        self._response = response

    def wait(self) -> bool:
        """Block for the next event; False when there will be none."""
        try:
            return bool(self._response.readline())
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def end(self) -> None:
        self._stream.hang_up()


class _HttpSocket:
    """As much of a socket as `http.client` needs."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def sendall(self, data: bytes) -> None:
        self._stream.sendall(data)

    def makefile(self, mode: str) -> IO[bytes]:
        return io.BufferedReader(_RawReader(self._stream))

    def close(self) -> None:
        """Nothing: the stream belongs to whoever connected it."""


class _RawReader(io.RawIOBase):
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.recv(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _message(response: http.client.HTTPResponse) -> str:
    body = response.read().decode(errors="replace")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()

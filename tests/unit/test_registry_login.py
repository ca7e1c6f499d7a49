"""`docker login` against a registry on loopback that wants a password, or a token of another server."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from runtime.errors import InvalidParameter, SystemFault, Unauthorized, WherryError
from runtime.registry.hosts import RegistrySettings
from runtime.registry.login import Credentials, login

GOOD = "Basic " + base64.b64encode(b"ada:secret").decode()


class Registry(BaseHTTPRequestHandler):
    scheme = "open"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        given = self.headers.get("Authorization", "")
        if url.path == "/token":
            query = parse_qs(url.query)
            assert query["service"] == ["test"] and query["account"] and query["offline_token"] == ["true"]
            if given == GOOD:
                self.say(200, {"token": "access", "refresh_token": "identity"})
            else:
                self.say(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
        elif self.scheme == "open" or given == (GOOD if self.scheme == "basic" else "Bearer access"):
            self.say(200, {})
        elif self.scheme == "broken":
            self.say(500, {})
        else:
            realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="test"'
            self.say(401, {}, realm if self.scheme == "bearer" else 'Basic realm="test"')

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        good = form["grant_type"] == ["refresh_token"] and form["refresh_token"] == ["identity"]
        self.say(200 if good else 401, {"access_token": "access"} if good else {})

    def say(self, status: int, document: Any, challenge: str = "") -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def registry(scheme: str) -> Iterator[str]:
    handler = type("Handler", (Registry,), {"scheme": scheme})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_who_is_believed() -> None:
    for scheme, token in (("open", ""), ("basic", ""), ("bearer", "identity")):
        with registry(scheme) as address:
            assert login(address, Credentials("ada", "secret")) == token
            assert login(f"http://{address}/v2/", Credentials("ada", "secret")) == token
    with registry("bearer") as address:
        assert login(address, Credentials("ada", "", "identity")) == ""


@pytest.mark.parametrize(
    "scheme, kind, words",
    [
        ("basic", Unauthorized, "failed with status: 401 Unauthorized"),
        ("bearer", Unauthorized, "unauthorized: incorrect username or password"),
        ("broken", SystemFault, "failed with status: 500"),
    ],
)
def test_who_is_not(scheme: str, kind: type[WherryError], words: str) -> None:
    with registry(scheme) as address, pytest.raises(kind, match=words):
        login(address, Credentials("ada", "wrong"))


def test_addresses() -> None:
    with pytest.raises(SystemFault, match=r"http://127.0.0.1:1/v2/"):
        login("127.0.0.1:1", Credentials("ada", "secret"))
    with pytest.raises(InvalidParameter, match="invalid registry address"):
        login("not a host", Credentials("ada", "secret"))
    with pytest.raises(InvalidParameter, match="username"):
        login("127.0.0.1:1", Credentials("", "secret"))
    is_insecure = RegistrySettings().is_insecure
    assert is_insecure("127.3.4.5:5000") and is_insecure("[::1]:5000") and is_insecure("localhost")
    assert not is_insecure("example.test:5000")

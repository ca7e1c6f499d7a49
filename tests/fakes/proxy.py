"""A proxy on loopback, plain and through CONNECT, that leads every host to one place."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Proxy:
    """Leads every host to `target`; `seen` are methods and hosts, `logins` what was said to be let through."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.seen: list[tuple[str, str]] = []
        self.logins: set[str | None] = set()
        self.address = ""


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host, _, path = self.path.removeprefix("http://").partition("/")
        self.proxy.seen.append((self.command, host))
        self.proxy.logins.add(self.headers.get("Proxy-Authorization"))
        length = int(self.headers.get("Content-Length", 0))
        connection = http.client.HTTPConnection(self.proxy.target)
        connection.request(self.command, f"/{path}", self.rfile.read(length), dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "date", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

    def do_CONNECT(self) -> None:
        self.proxy.seen.append(("CONNECT", self.path))
        self.proxy.logins.add(self.headers.get("Proxy-Authorization"))
        host, _, port = self.proxy.target.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            ends = {self.connection: upstream, upstream: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    ends[end].sendall(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave


@contextlib.contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"proxy": proxy}))
    proxy.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

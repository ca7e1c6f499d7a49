"""A registry in which anything can be made to go wrong: truncated, lying, throttling, redirecting, hanging."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes.images import gzipped, image_config, sha256

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class BrokenRegistry:
    """`blobs` and `manifests` (by tag and digest) are served; `mischief(handler, path)` may answer first (True)."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        self.mischief: Callable[[Handler, str], bool] = lambda handler, path: False
        self.released = threading.Event()  # hanging answers end
        self.address = ""

    def add(self, layers: Sequence[bytes], tag: str = "latest", /, **changes: Any) -> list[str]:
        """An image of these plain layers; digests of its compressed layers. `changes` are of the manifest."""
        blobs = [gzipped(layer) for layer in layers]
        config = image_config(layers, {"Cmd": ["true"]})
        for blob in (*blobs, config):
            self.blobs[sha256(blob)] = blob
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [_descriptor(blob, "application/vnd.oci.image.layer.v1.tar+gzip") for blob in blobs],
            **changes,
        }
        data = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[sha256(data)] = (manifest["mediaType"], data)
        return [sha256(blob) for blob in blobs]

    def asked(self, blob: str) -> list[str]:
        """The Range header of every GET of a blob."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path.endswith(blob)]


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


class Handler(BaseHTTPRequestHandler):
    registry: BrokenRegistry
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        registry = self.registry
        registry.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if registry.mischief(self, self.path):
            return
        name = self.path.rpartition("/")[2]
        if "/manifests/" in self.path and name in registry.manifests:
            media_type, data = registry.manifests[name]
            self.say(200, data, {"Content-Type": media_type, "Docker-Content-Digest": sha256(data)})
        elif "/blobs/" in self.path and name in registry.blobs:
            self.say_blob(registry.blobs[name])
        else:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def say_blob(self, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None:
            self.say(200, data)
            return
        start = int(match[1])
        self.say(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    def say(self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        """`length`: what Content-Length claims; when it is more than there is, the connection breaks off."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data) if length is None else length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(data)
        if length is not None and length > len(data):
            self.close_connection = True

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.say(status, body, headers)

    def hang(self) -> None:
        self.registry.released.wait(30)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave are what is tested


@contextlib.contextmanager
def broken_registry() -> Iterator[BrokenRegistry]:
    registry = BrokenRegistry()
    handler = type("BoundHandler", (Handler,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield registry
    finally:
        registry.released.set()
        server.shutdown()
        thread.join()
        server.server_close()

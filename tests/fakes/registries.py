"""Debian's docker-registry on loopback: plain, with TLS of a private authority, with passwords, with a token server."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.images import gzipped, image_config, sha256, tar_of

MANIFEST_V2 = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX_OCI = "application/vnd.oci.image.index.v1+json"
_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}/blobs}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
{extra}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def docker_registry(root: Path, extra: str = "") -> Iterator[str]:
    """Serves until the end of the block; its address. `extra`: more of its configuration (YAML)."""
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = root / "config.yml"
    config.write_text(_CONFIG.format(root=root, port=port, extra=extra))
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not installed: packaging/setup.sh test"
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        try:
            _wait_for(port, process, root / "log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """A port cannot be waited for but by trying."""
    for _ in range(500):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    raise AssertionError(f"the registry does not answer: {log.read_text()}")


class Push:
    """Puts blobs and manifests into a registry as they are, right or wrong."""

    def __init__(self, address: str, repository: str) -> None:
        self._address = address
        self._repository = repository

    def blob(self, data: bytes, media_type: str = "application/octet-stream") -> dict[str, Any]:
        """Its descriptor."""
        location = self._call("POST", f"/v2/{self._repository}/blobs/uploads/", b"", 202)
        path = location.split(self._address, 1)[-1]
        self._call("PUT", f"{path}&digest={sha256(data)}", data, 201)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def manifest(self, tag: str, document: Mapping[str, Any], media_type: str = "") -> dict[str, Any]:
        data = json.dumps(document).encode()
        kind = media_type or document["mediaType"]
        self._call("PUT", f"/v2/{self._repository}/manifests/{tag}", data, 201, kind)
        return {"mediaType": kind, "digest": sha256(data), "size": len(data)}

    def image(
        self,
        tag: str,
        layers: Sequence[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        media_type: str = MANIFEST_OCI,
        compress: Any = gzipped,
        architecture: str = "",
    ) -> dict[str, Any]:
        """An image of these uncompressed layers; the descriptor of its manifest."""
        configuration = self.blob(image_config(layers, config or {}, architecture), f"{_family(media_type)}.config")
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        manifest = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {**configuration, "mediaType": _config_type(media_type)},
            "layers": [self.blob(compress(layer), kind) for layer in layers],
        }
        return self.manifest(tag, manifest)

    def _call(self, method: str, path: str, body: bytes, expect: int, media_type: str = "") -> str:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": media_type or "application/octet-stream"})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == expect, (method, path, response.status, answer)
            return response.getheader("Location", "")
        finally:
            connection.close()


def _family(media_type: str) -> str:
    return media_type.rpartition(".")[0]


def _config_type(media_type: str) -> str:
    if media_type == MANIFEST_V2:
        return "application/vnd.docker.container.image.v1+json"
    return "application/vnd.oci.image.config.v1+json"


def random_bytes(size: int, seed: str = "") -> bytes:
    """The same for the same seed; does not compress."""
    return hashlib.shake_256(seed.encode()).digest(size)


__all__ = ["Push", "docker_registry", "free_port", "random_bytes", "tar_of"]

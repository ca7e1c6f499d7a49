"""Registries behind a proxy: of the daemon's settings and of the environment, plain and through CONNECT."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.images import busybox_rootfs, file, tar_of
from tests.fakes.proxy import proxy_to
from tests.fakes.registries import Push, docker_registry, random_bytes
from tests.harness import RunningEngine

HOST = "registry.example:5000"  # resolves nowhere: only the proxy knows where it is


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        image = [tar_of(busybox_rootfs()), tar_of([file("data", random_bytes(100_000))])]
        Push(address, "team/app").image("1", image, {"Cmd": ["true"]})
        yield address


def status_of(engine: RunningEngine, method: str, path: str) -> tuple[int, str]:
    status, body = engine.request(method, path, timeout_s=60)
    return status, body.decode()


def test_plain_registries(tmp_path: Path, registry: str) -> None:
    with proxy_to(registry) as proxy:
        proxies = ["--http-proxy", proxy.address, "--https-proxy", proxy.address]
        engine = RunningEngine(tmp_path, *proxies, "--insecure-registry", HOST)
        try:
            status, said = status_of(engine, "POST", f"/images/create?fromImage={HOST}/team/app:1")
            assert status == 200 and "Downloaded newer image" in said, said
            assert {host for _, host in proxy.seen} == {HOST}
            proxy.seen.clear()
            engine.post(f"/images/{HOST}/team/app:1/tag?repo={HOST}/team/copy&tag=1", expect=201)
            status, said = status_of(engine, "POST", f"/images/{HOST}/team/copy/push?tag=1")
            assert "1: digest: sha256:" in said and ("PUT", HOST) in proxy.seen
            proxy.seen.clear()
            assert status_of(engine, "POST", f"/images/create?fromImage={registry}/team/app:1")[0] == 200
            assert proxy.seen == []  # this machine's own are never asked for at a proxy
        finally:
            engine.close()


def test_tls_goes_through_connect(tmp_path: Path) -> None:
    """A registry that hangs up: what is looked at is the way to it."""
    with socket.create_server(("127.0.0.1", 0)) as nothing, proxy_to(f"127.0.0.1:{nothing.getsockname()[1]}") as proxy:
        thread = threading.Thread(target=lambda: [nothing.accept()[0].close() for _ in range(1)], daemon=True)
        thread.start()
        engine = RunningEngine(tmp_path, "--https-proxy", proxy.address)
        try:
            status, said = status_of(engine, "POST", f"/images/create?fromImage={HOST}/team/app:1")
            assert status == 500, said
            assert ("CONNECT", HOST) in proxy.seen
        finally:
            engine.close()

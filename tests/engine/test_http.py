"""The HTTP server's manners, on a real engine: versions, unknown routes, clients that come in crowds or leave early."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.test_containers import create
from tests.fakes.images import busybox_image_tar
from tests.harness import RunningEngine, UnixConnection


@contextlib.contextmanager
def connected(engine: RunningEngine, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(engine.socket))
        client.sendall(data)
        yield client


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.43", "/v1.51", "/v1.51.0"])
def test_versions_that_are_served(engine: RunningEngine, prefix: str) -> None:
    assert engine.get(f"{prefix}/version")["ApiVersion"] == "1.51"


@pytest.mark.parametrize(
    "version, message",
    [
        ("1.52", "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("2", "client version 2 is too new. Maximum supported API version is 1.51"),
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a "
            "newer version",
        ),
    ],
)
def test_versions_that_are_not(engine: RunningEngine, version: str, message: str) -> None:
    assert engine.message("GET", f"/v{version}/info") == (400, message)


def test_what_is_no_route(engine: RunningEngine) -> None:
    """moby's mux says 404 for a known path with another method, too."""
    for method, path in [("GET", "/nosuch"), ("PUT", "/info"), ("GET", "/v1.51/"), ("GET", "/"), ("POST", "/version")]:
        assert engine.message(method, path) == (404, "page not found")
    assert engine.request("HEAD", "/info") == (404, b"")
    assert engine.request("OPTIONS", "/anything")[0] == 200


def test_every_answer_says_who_gave_it(engine: RunningEngine) -> None:
    for path in ("/_ping", "/info", "/nosuch"):
        connection = UnixConnection(engine.socket)
        connection.request("GET", path)
        headers = connection.getresponse().headers
        connection.close()
        assert (headers["Api-Version"], headers["Ostype"]) == ("1.51", "linux")
        assert headers["Server"].startswith("Wherry/")


def test_ping_by_head(engine: RunningEngine) -> None:
    connection = UnixConnection(engine.socket)
    connection.request("HEAD", "/_ping")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    assert (response.headers["Builder-Version"], response.headers["Swarm"]) == ("1", "inactive")
    connection.close()


def test_the_socket_is_for_root_and_its_group(engine: RunningEngine) -> None:
    info = os.stat(engine.socket)
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o660, 0, 0)


def test_clients_that_leave_in_every_phase(engine: RunningEngine, busybox_archive: Path) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    head = "POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: 9000000\r\n\r\n"
    leaving = [
        b"",
        b"GET /inf",
        b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        head.encode() + busybox_archive.read_bytes()[:100_000],
        f"POST /containers/{id}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n"
        "Connection: Upgrade\r\n\r\n".encode(),
        f"GET /containers/{id}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"POST /containers/{id}/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode(),
    ]
    images = engine.get("/images/json")
    for data in leaving * 3:
        with connected(engine, data):
            pass
    assert engine.get("/images/json") == images
    assert "Traceback" not in engine.log()


def test_a_slow_answer_holds_up_nobody(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    stopping = threading.Thread(target=engine.request, args=("POST", f"/containers/{id}/stop?t=2"))
    stopping.start()
    assert engine.request("GET", "/_ping", timeout_s=1)[0] == 200
    assert engine.get(f"/containers/{id}/json")["State"]["Running"] is True
    assert stopping.is_alive()
    engine.post(f"/containers/{id}/kill")
    stopping.join()


def test_more_connections_than_there_is_room(tmp_path: Path) -> None:
    busybox_image_tar(tmp_path / "busybox.tar")
    engine = RunningEngine(tmp_path, prefix=("prlimit", "--nofile=400:400"))
    with contextlib.ExitStack() as stack:
        stack.callback(engine.close)
        engine.load(tmp_path / "busybox.tar")
        first = UnixConnection(engine.socket)
        stack.callback(first.close)
        first.request("GET", "/_ping")
        assert first.getresponse().read() == b"OK"
        crowd = [stack.enter_context(connected(engine)) for _ in range(199)]
        request = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
        with connected(engine, request) as late:
            answer = b"".join(iter(lambda: late.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert "too many connections" in json.loads(answer.partition(b"\r\n\r\n")[2])["message"]
        first.request("GET", "/containers/json")  # those who are in are served
        assert json.loads(first.getresponse().read()) == []
        first.request("POST", "/containers/create", b'{"Image": "busybox", "Cmd": ["true"]}', JSON)
        id = json.loads(first.getresponse().read())["Id"]
        first.request("POST", f"/containers/{id}/start")
        assert first.getresponse().status == 204
        for _ in range(50):
            crowd.pop().close()
        assert engine.request("GET", "/_ping")[0] == 200


JSON = {"Content-Type": "application/json"}

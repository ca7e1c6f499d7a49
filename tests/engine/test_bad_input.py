"""Everything a person or a program can get wrong: one clear sentence, the right status, nothing left behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_containers import create
from tests.harness import RunningEngine

BAD_CREATE: list[tuple[str, dict[str, Any], int, str]] = [
    ("missing image", {"Image": "nosuch", "Cmd": ["true"]}, 404, "No such image: nosuch:latest"),
    ("no image", {"Cmd": ["true"]}, 400, "an Image is needed"),
    ("no command", {"Image": "busybox", "Cmd": [], "Entrypoint": [""]}, 400, "no command specified"),
    ("memory too small", {"Image": "busybox", "HostConfig": {"Memory": 1024}}, 400, "6MB"),
    ("memory not a number", {"Image": "busybox", "HostConfig": {"Memory": "lots"}}, 400, "HostConfig.Memory"),
    ("unknown capability", {"Image": "busybox", "HostConfig": {"CapAdd": ["FLY"]}}, 400, "CAP_FLY"),
    ("relative mount", {"Image": "busybox", "HostConfig": {"Binds": ["/tmp:in"]}}, 400, "absolute"),
    ("bad volume name", {"Image": "busybox", "HostConfig": {"Binds": ["../x:/in"]}}, 400, "volume name"),
    ("bad port", {"Image": "busybox", "HostConfig": {"PortBindings": {"99999/tcp": [{}]}}}, 400, "99999"),
    ("bad host port", {"Image": "busybox", "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}}, 400, "x"),
    ("bad tmpfs option", {"Image": "busybox", "HostConfig": {"Tmpfs": {"/t": "sizzle=1"}}}, 400, "sizzle"),
    ("bad signal", {"Image": "busybox", "StopSignal": "SIGNAL"}, 400, "SIGNAL"),
    ("unknown user", {"Image": "busybox", "User": "nobody-here"}, 400, "nobody-here"),
    ("no such runtime", {"Image": "busybox", "HostConfig": {"Runtime": "runsc"}}, 400, "invalid runtime name: runsc"),
]


@pytest.mark.parametrize("body, status, words", [case[1:] for case in BAD_CREATE], ids=[case[0] for case in BAD_CREATE])
def test_create_refuses(engine: RunningEngine, body: dict[str, Any], status: int, words: str) -> None:
    before = state_on_disk(engine)
    body = {"Cmd": ["true"], **body}
    answer = engine.message("POST", "/containers/create", body)
    assert answer[0] == status, answer
    assert words in answer[1]
    assert state_on_disk(engine) == before


def state_on_disk(engine: RunningEngine) -> list[str]:
    places = (engine.data_root / name for name in ("containers", "snapshots", "volumes"))
    return sorted(str(path) for place in places for path in place.iterdir())


@pytest.mark.parametrize(
    "command, code, words",
    [(["nosuch"], 127, "not found"), (["/etc/passwd"], 126, "permission denied"), (["/nowhere/x"], 127, "/nowhere/x")],
)
def test_what_cannot_be_executed(engine: RunningEngine, command: list[str], code: int, words: str) -> None:
    id = create(engine, *command)
    status, message = engine.message("POST", f"/containers/{id}/start")
    assert status == 400
    assert words in message
    state = engine.get(f"/containers/{id}/json")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", code)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/wherry-{engine.instance}/{id}"))


def test_a_missing_bind_source(engine: RunningEngine) -> None:
    mount = {"Type": "bind", "Source": "/no/such/place", "Target": "/in"}
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}}
    status, message = engine.message("POST", "/containers/create", body)
    assert status == 400
    assert message == 'invalid mount config for type "bind": bind source path does not exist: /no/such/place'


def test_a_taken_name(engine: RunningEngine) -> None:
    id = create(engine, "true", name="taken")
    status, message = engine.message("POST", "/containers/create?name=taken", {"Image": "busybox", "Cmd": ["true"]})
    assert status == 409
    assert id in message and "rename" in message


def test_a_taken_port(engine: RunningEngine) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        id = create(engine, "true", host={"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}})
        status, message = engine.message("POST", f"/containers/{id}/start")
    assert status == 500
    assert f"failed to bind host port for 0.0.0.0:{port}:" in message
    assert f":80/tcp: address already in use; {Path('/proc/self/comm').read_text().strip()} (pid " in message
    engine.post(f"/containers/{id}/start")  # nothing was left behind that would hinder it


def test_unknown_things(engine: RunningEngine) -> None:
    for method, path in [
        ("GET", "/containers/nosuch/json"),
        ("POST", "/containers/nosuch/start"),
        ("DELETE", "/containers/nosuch"),
        ("GET", "/images/nosuch/json"),
        ("GET", "/networks/nosuch"),
        ("GET", "/volumes/nosuch"),
        ("GET", "/exec/nosuch/json"),
        ("GET", "/no/such/endpoint"),
    ]:
        status, message = engine.message(method, path)
        assert status == 404, path
        assert "such" in message or "not found" in message


def test_malformed_json(engine: RunningEngine) -> None:
    status, message = engine.message("POST", "/containers/create", b'{"Image": ')
    assert status == 400
    assert "invalid JSON" in message


def test_json_of_another_shape(engine: RunningEngine) -> None:
    for body in (b"[1, 2]", b'{"Image": "busybox", "HostConfig": 3}', b'{"Image": "busybox", "Cmd": 7}'):
        status, message = engine.message("POST", "/containers/create", body)
        assert status == 400, message


def test_a_broken_tar(engine: RunningEngine) -> None:
    before = engine.get("/images/json")
    for archive in (b"this is no tar", b"\x1f\x8b\x08\x00broken", b""):
        status, body = engine.request("POST", "/images/load", archive)
        assert status == 200 and json.loads(body)["error"], body  # as moby, and docker-py looks for it there
    assert engine.get("/images/json") == before


def test_versions(engine: RunningEngine) -> None:
    assert engine.request("GET", "/v1.24/_ping")[0] == 200
    assert engine.request("GET", "/v1.47/_ping")[0] == 200
    assert engine.message("GET", "/v1.99/version")[0] == 400
    assert "too old" in engine.message("GET", "/v1.12/version")[1]


def raw(engine: RunningEngine, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(engine.socket))
        try:
            client.sendall(data)
        except BrokenPipeError:
            pass
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def test_a_header_of_four_megabytes(engine: RunningEngine) -> None:
    answer = raw(engine, b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (4 << 20) + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"headers are too large" in answer
    assert engine.request("GET", "/_ping")[0] == 200


def test_what_is_no_http(engine: RunningEngine) -> None:
    answer = raw(engine, b"\x16\x03\x01 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_removing_what_is_used(engine: RunningEngine) -> None:
    id = create(engine, "sleep", "60")
    engine.post(f"/containers/{id}/start")
    assert engine.message("DELETE", f"/containers/{id}")[0] == 409
    status, message = engine.message("DELETE", "/images/busybox")
    assert status == 409
    assert id[:12] in message

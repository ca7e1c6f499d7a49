"""Docker Compose, version 2 through `wherry compose` and version 1 as Debian has it, on the engine's socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core.errors import UserError
from app.services.compose import find_program
from tests.harness import REPOSITORY, RunningEngine

PROJECT = """
services:
  web:
    image: busybox
    command: ["httpd", "-f", "-h", "/www"]
    volumes: ["content:/www", "./conf:/conf:ro"]
    environment: {MODE: test}
    ports: ["127.0.0.1::80"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/conf.txt"]
      interval: 200ms
      retries: 30
    networks: [front, back]
    stop_grace_period: 0s
  writer:
    image: busybox
    command: ["cp", "/conf/conf.txt", "/www/"]
    volumes: ["content:/www", "./conf:/conf:ro"]
    networks: [back]
  client:
    image: busybox
    command: ["wget", "-q", "-O", "-", "http://web/conf.txt"]
    depends_on:
      web: {condition: service_healthy}
      writer: {condition: service_completed_successfully}
    networks: [front]
networks:
  front: {}
  back: {internal: true}
volumes:
  content: {}
"""

OLD_PROJECT = """
version: "3.7"
services:
  web:
    image: busybox
    command: ["httpd", "-f", "-h", "/etc"]
    stop_grace_period: 0s
  client:
    image: busybox
    command: ["sh", "-c", "sleep 1; wget -q -O - http://web/hostname"]
    depends_on: [web]
volumes:
  content: {}
"""

Compose = Callable[..., str]


def has_compose() -> bool:
    try:
        return bool(find_program())
    except UserError:
        return False


def runner(engine: RunningEngine, directory: Path, program: list[str]) -> Compose:
    environment = {**os.environ, "DOCKER_HOST": engine.host, "PYTHONPATH": str(REPOSITORY), "HOME": str(directory)}
    environment["COMPOSE_HTTP_TIMEOUT"] = "60"

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [*program, *arguments], cwd=directory, env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == code, (arguments, done.stdout.decode(), done.stderr.decode())
        return done.stdout.decode()

    return run


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.skipif(not has_compose(), reason="Docker Compose 2 is not installed")
def test_a_project_from_up_to_down(engine: RunningEngine, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    directory = tmp_path / "shop"
    (directory / "conf").mkdir(parents=True)
    (directory / "conf/conf.txt").write_text("served by compose\n")
    (directory / "compose.yaml").write_text(PROJECT)
    compose = runner(engine, directory, [sys.executable, "-m", "app", "--host", engine.host, "compose"])
    before = engine.get("/networks"), engine.get("/volumes")["Volumes"]

    compose("up", "-d")
    stack.callback(compose, "down", "-v")
    assert engine.docker("wait", "shop-client-1").stdout == b"0\n"
    assert "served by compose" in compose("logs", "client")
    assert compose("ps", "--services", "--status", "running").split() == ["web"]
    assert compose("exec", "-T", "web", "sh", "-c", "echo $MODE").strip() == "test"
    assert compose("port", "web", "80").startswith("127.0.0.1:")
    assert "httpd" in compose("top", "web")
    compose("cp", "web:/www/conf.txt", "copied.txt")
    assert (directory / "copied.txt").read_text() == "served by compose\n"
    compose("run", "--rm", "-T", "--no-deps", "web", "true")
    first = engine.get("/containers/shop-web-1/json")["Id"]
    compose("up", "-d")
    assert engine.get("/containers/shop-web-1/json")["Id"] == first  # nothing has changed: nothing is made anew
    compose("pause", "web")
    assert "(Paused)" in compose("ps", "web")
    compose("unpause", "web")
    compose("up", "-d", "--no-deps", "--scale", "writer=2", "writer")
    compose("restart", "web")
    compose("stop")
    assert compose("ps", "-q").strip() == ""
    compose("down", "-v")
    assert (engine.get("/networks"), engine.get("/volumes")["Volumes"]) == before
    assert engine.get("/containers/json?all=1") == []


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose 1 is not installed")
def test_docker_compose_1(engine: RunningEngine, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    program = shutil.which("docker-compose")
    version = subprocess.run([str(program), "version", "--short"], capture_output=True, text=True, check=False).stdout
    if not version.startswith("1."):
        pytest.skip(f"docker-compose here is {version}")
    directory = tmp_path / "old"
    directory.mkdir()
    (directory / "docker-compose.yml").write_text(OLD_PROJECT)
    compose = runner(engine, directory, [str(program)])
    compose("up", "-d")
    stack.callback(compose, "down", "-v")
    client = engine.docker("wait", "old_client_1")
    assert client.stdout == b"0\n", compose("logs")
    name = engine.get("/containers/old_web_1/json")["Config"]["Hostname"]
    assert name in compose("logs", "--no-color", "client")
    assert "old_web_1" in compose("ps")
    assert compose("exec", "-T", "web", "hostname").strip() == name
    compose("up", "-d", "--scale", "web=2")
    compose("down", "-v")
    assert engine.get("/containers/json?all=1") == []
    assert [network["Name"] for network in engine.get("/networks") if network["Name"].startswith("old")] == []

"""`wherry` and a registry: log in, push, pull, look, save, remove."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from tests.fakes.images import docker_archive, file, tar_of
from tests.fakes.registries import docker_registry
from tests.harness import REPOSITORY, RunningEngine

HELPER = """#!/bin/sh
case "$1" in
  store) cat > "$HELPER_FILE" ;;
  get) [ -e "$HELPER_FILE" ] && cat "$HELPER_FILE" || { echo "credentials not found in native keychain"; exit 1; } ;;
  erase) rm "$HELPER_FILE" ;;
  list) echo '{}' ;;
esac
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("registry")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4, prefix=b"2a")).decode()
    (root / "htpasswd").write_text(f"ada:{hashed}\n")
    with docker_registry(root, f"auth:\n  htpasswd: {{realm: test, path: {root}/htpasswd}}\n") as address:
        yield address


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("cli"))
    yield running
    running.close()


class Cli:
    def __init__(self, engine: RunningEngine, home: Path) -> None:
        self.config = home / "config.json"
        self._command = [sys.executable, "-m", "app.cli.main", "--host", engine.host]
        path = f"{home}:{os.environ['PATH']}"
        self._environment = {**os.environ, "DOCKER_CONFIG": str(home), "PATH": path, "HELPER_FILE": str(home / "kept")}

    def __call__(self, *arguments: str, input: str = "", code: int = 0) -> str:
        start = "import sys; from app.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", start, *self._command[3:], *arguments]
        done = subprocess.run(
            command, env=self._environment, cwd=REPOSITORY, input=input, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr


def test_there_and_back(engine: RunningEngine, registry: str, tmp_path: Path) -> None:
    wherry = Cli(engine, tmp_path)
    engine.load(docker_archive(tmp_path / "box.tar", [tar_of([file("a", b"x" * 5000)])], ["box:1"], {"Cmd": ["a"]}))
    name = f"{registry}/team/box"
    wherry("tag", "box:1", f"{name}:1")
    assert "no basic auth credentials" in wherry("push", f"{name}:1", code=1)
    assert "401" in wherry("login", "-u", "ada", "--password-stdin", registry, input="wrong", code=1)
    assert "Login Succeeded" in wherry("login", "-u", "ada", "--password-stdin", registry, input="secret\n")
    assert json.loads(wherry.config.read_text())["auths"] == {registry: {"auth": "YWRhOnNlY3JldA=="}}
    assert wherry.config.stat().st_mode & 0o777 == 0o600
    pushed = wherry("push", f"{name}:1")
    assert "Pushed" in pushed and "1: digest: sha256:" in pushed
    assert wherry("rmi", f"{name}:1", "box:1").split() == [f"{name}:1", "box:1"]
    assert "Status: Downloaded newer image" in wherry("pull", f"{name}:1")
    assert f"manifest for {name}:2 not found" in wherry("pull", f"{name}:2", code=1)
    wherry("rmi", "-f", f"{name}:1")
    # It has no program that could run, but is pulled for it.
    assert "Status: Downloaded newer image" in wherry("run", "--rm", f"{name}:1", code=127)
    assert f"manifest for {name}:2 not found" in wherry("run", "--rm", f"{name}:2", code=125)
    assert json.loads(wherry("inspect", f"{name}:1"))[0]["Config"]["Cmd"] == ["a"]
    assert "5kB" in wherry("history", f"{name}:1")
    wherry("save", "-o", str(tmp_path / "saved.tar"), f"{name}:1")
    assert f"Loaded image: {name}:1" in wherry("load", "-i", str(tmp_path / "saved.tar"))
    assert "it has no search API" in wherry("search", f"{registry}/box", code=1)
    assert wherry("logout", registry) == f"Removing login credentials for {registry}\n"
    assert wherry("logout", registry) == f"Not logged in to {registry}\n"


def test_a_credential_helper_keeps_the_password(engine: RunningEngine, registry: str, tmp_path: Path) -> None:
    wherry = Cli(engine, tmp_path)
    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    wherry.config.write_text(json.dumps({"credsStore": "test"}))
    wherry("login", "-u", "ada", "--password-stdin", registry, input="secret")
    assert json.loads(wherry.config.read_text())["auths"] == {registry: {}}
    assert json.loads((tmp_path / "kept").read_text())["Secret"] == "secret"
    assert "manifest unknown" in wherry("pull", f"{registry}/team/none:1", code=1)  # believed, or it would be 401
    wherry("logout", registry)
    assert not (tmp_path / "kept").exists()
    assert "no basic auth credentials" in wherry("pull", f"{registry}/team/none:1", code=1)


def test_builds_on_images_of_a_private_registry(engine: RunningEngine, registry: str, tmp_path: Path) -> None:
    """The docker CLI sends every login it has, `wherry` those of registries that the build names."""
    wherry = Cli(engine, tmp_path)
    name = f"{registry}/team/base"
    engine.load(docker_archive(tmp_path / "box.tar", [tar_of([file("a", b"x")])], [f"{name}:1"], {"Cmd": ["a"]}))
    wherry("login", "-u", "ada", "--password-stdin", registry, input="secret")
    wherry("push", f"{name}:1")
    wherry("rmi", f"{name}:1")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(f"ARG REGISTRY={registry}\nFROM $REGISTRY/team/base:1\nLABEL a=b\n")
    build = ("build", "--pull", "--no-cache", str(tmp_path / "context"))
    assert "Successfully built" in wherry(*build, "-t", "on-private:1")
    docker = [*("docker", "--host", engine.host, "--config", str(tmp_path)), *build]
    told = subprocess.run(docker, env={**os.environ, "DOCKER_BUILDKIT": "0"}, capture_output=True, check=False)
    assert b"Successfully built" in told.stdout, told

    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    (tmp_path / "kept").write_text(json.dumps({"ServerURL": registry, "Username": "ada", "Secret": "secret"}))
    wherry.config.write_text(json.dumps({"credHelpers": {registry: "test"}, "credsStore": "missing"}))
    assert "Successfully built" in wherry(*build)
    (tmp_path / "kept").unlink()
    assert "no basic auth credentials" in wherry(*build, code=1)

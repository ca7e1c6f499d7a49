"""Where Compose is found, and what it is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.core.errors import UserError
from app.services import compose


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_where_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "PLUGIN_DIRECTORIES", (tmp_path / "plugins",))
    monkeypatch.setattr(compose, "_packaged", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=r"not installed.*wherry\[compose\]"):
        compose.find_program()
    for place in ("bin", "plugins", "package"):  # the later wins
        found = program(tmp_path / place / "docker-compose")
        if place == "package":
            monkeypatch.setattr(compose, "_packaged", lambda: tmp_path / "package" / "docker-compose")
        assert compose.find_program() == str(found)


def test_the_package_is_for_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compose._packaged() is None


def test_its_environment() -> None:
    given = {"HOME": "/h", "DOCKER_HOST": "tcp://elsewhere", "DOCKER_CONTEXT": "other", "DOCKER_TLS_VERIFY": "1"}
    assert compose.environment("unix:///s", given) == {"HOME": "/h", "DOCKER_HOST": "unix:///s"}
    assert compose.environment("http://127.0.0.1:5", {}) == {"DOCKER_HOST": "tcp://127.0.0.1:5"}
    assert compose.environment("npipe:////./pipe/w", {}) == {"DOCKER_HOST": "npipe:////./pipe/w"}

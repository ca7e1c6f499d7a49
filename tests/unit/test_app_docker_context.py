"""`wherry context`: files as the docker CLI writes and reads them, and the socket programs look for by default."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.main import main
from app.core.errors import UserError
from app.services.docker_context import DockerContexts

Wherry = Callable[..., tuple[int, str, str]]
HOST = "unix:///run/there/docker.sock"


@pytest.fixture
def wherry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Wherry:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--host", HOST, "context", *arguments])
        output, errors = capfdbinary.readouterr()
        return code, output.decode(), errors.decode()

    return run


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI")
def test_the_docker_command_knows_an_installed_context(wherry: Wherry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "kept"}')
    assert wherry("install")[0] == 0
    assert docker("context", "ls", "--format", "{{.Name}} {{.DockerEndpoint}} {{.Current}}").splitlines()[1:] == [
        f"wherry {HOST} false"
    ]
    assert docker("context", "show") == "default"
    assert wherry("install", "--use")[0] == 0
    assert docker("context", "show") == "wherry"
    assert docker("context", "inspect", "-f", "{{.Endpoints.docker.Host}}") == HOST
    shown = json.loads(wherry("show", "--json")[1])
    assert (shown["host"], shown["current"], shown["default_socket"]) == (HOST, True, False)
    assert wherry("remove")[0] == 0
    assert docker("context", "ls", "-q").split() == ["default"]
    assert json.loads((tmp_path / "config.json").read_text()) == {"credsStore": "kept"}
    code, _, errors = wherry("remove")
    assert code == 1 and "There is no docker context `wherry`" in errors


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI")
def test_somebody_elses_context_is_left_alone(wherry: Wherry) -> None:
    docker("context", "create", "wherry", "--docker", "host=unix:///theirs.sock")
    for action in ("install", "remove"):
        code, _, errors = wherry(action)
        assert code == 1 and "did not make" in errors
    assert wherry("install", "--name", "default")[0] == 1
    assert docker("context", "inspect", "-f", "{{.Endpoints.docker.Host}}", "wherry") == "unix:///theirs.sock"


def test_the_default_socket_is_a_link_that_goes_with_the_context(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    contexts = DockerContexts(tmp_path, path)
    contexts.install("wherry", HOST, "", default_socket=True)
    contexts.install("wherry", HOST, "", default_socket=True)
    assert path.readlink() == Path("/run/there/docker.sock")
    assert contexts.show("wherry").default_socket
    contexts.remove("wherry")
    assert not path.is_symlink()


def test_a_default_socket_somebody_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    contexts = DockerContexts(tmp_path, path)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        with pytest.raises(UserError, match="is there already, and an engine of somebody else"):
            contexts.install("wherry", HOST, "", default_socket=True)
        assert contexts.show("wherry").host == ""
        path.rename(tmp_path / "theirs.sock")
        path.symlink_to(tmp_path / "theirs.sock")
        with pytest.raises(UserError, match=r"leads to .*theirs\.sock"):
            contexts.install("wherry", HOST, "", default_socket=True)
    contexts.install("wherry", HOST, "")
    contexts.remove("wherry")
    assert path.is_symlink()  # another's: not ours to take away
    (tmp_path / "theirs.sock").unlink()
    contexts.install("wherry", HOST, "", default_socket=True)
    assert path.readlink() == Path("/run/there/docker.sock")
    with pytest.raises(UserError, match="only lead to an engine with a unix socket"):
        contexts.install("wherry", "npipe:////./pipe/x", "", default_socket=True)

"""The syntaxes of `docker run`, turned into the body of a create."""

from pathlib import Path

import pytest

from app.core.errors import UserError
from app.services.run_options import (
    RunOptions,
    container_config,
    environment,
    environment_file,
    memory_bytes,
    port_bindings,
    volume_mounts,
)


def binding(port: str, ip: str = "") -> dict[str, str]:
    return {"HostIp": ip, "HostPort": port}


@pytest.mark.parametrize(
    ("entry", "bindings"),
    [
        ("80", {"80/tcp": [binding("")]}),
        ("8080:80", {"80/tcp": [binding("8080")]}),
        ("53:53/udp", {"53/udp": [binding("53")]}),
        ("127.0.0.1:8080:80", {"80/tcp": [binding("8080", "127.0.0.1")]}),
        ("127.0.0.1::80", {"80/tcp": [binding("", "127.0.0.1")]}),
        ("[::1]:8080:80", {"80/tcp": [binding("8080", "::1")]}),
        ("8000-8001:80-81", {"80/tcp": [binding("8000")], "81/tcp": [binding("8001")]}),
        ("8000-8009:80", {"80/tcp": [binding("8000-8009")]}),
    ],
)
def test_ports(entry: str, bindings: dict[str, object]) -> None:
    assert port_bindings([entry]) == ({port: {} for port in bindings}, bindings)


@pytest.mark.parametrize(
    "entry",
    ["", "http", "80:", "0:80", "80:99999", "8000-8001:80-85", "9-8:9-8", "300.1.1.1:80:80", "80/icmp", "1:2:3:4"],
)
def test_ports_that_are_none(entry: str) -> None:
    with pytest.raises(UserError) as caught:
        port_bindings([entry])
    assert repr(entry) in caught.value.sentence
    assert caught.value.remedy


def test_volumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    entries = ["data:/srv", "./site:/srv:ro", "~/x:/x", "/abs:/abs:rw", "C:\\site:/srv", "/cache"]
    assert volume_mounts(entries) == (
        ["data:/srv", f"{tmp_path}/site:/srv:ro", "/home/me/x:/x", "/abs:/abs:rw", "C:\\site:/srv"],
        ["/cache"],
    )


@pytest.mark.parametrize("entry", ["", "data", ":/srv", "data:srv", "a:/b:ro:c"])
def test_volumes_that_are_none(entry: str) -> None:
    with pytest.raises(UserError):
        volume_mounts([entry])


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("64MB", 64 << 20), ("4096", 4096), ("1k", 1024)],
)
def test_memory(text: str, size_bytes: int) -> None:
    assert memory_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "much", "-1", "5x", "m"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="512m"):
        memory_bytes(text)


def test_environment_takes_values_from_here() -> None:
    assert environment(["A=1", "B=", "C", "D"], {"C": "3"}) == ["A=1", "B=", "C=3"]
    with pytest.raises(UserError):
        environment(["=1"])


def test_environment_file(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# comment\n\nA=1 # not a comment\n  B\n")
    assert environment_file(str(path)) == ["A=1 # not a comment", "B"]
    with pytest.raises(UserError, match="cannot be read"):
        environment_file(str(tmp_path / "none"))


def test_little_is_said_when_little_is_asked_for() -> None:
    assert container_config(RunOptions("alpine")) == {
        "Image": "alpine",
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "HostConfig": {"AutoRemove": False, "NetworkMode": "default"},
    }


def test_everything_that_can_be_asked_for(tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    options = RunOptions(
        "alpine",
        command=("sh",),
        environment=("A=1",),
        labels=("k=v", "bare"),
        workdir="/w",
        user="1:2",
        hostname="h",
        network="none",
        entrypoint="",
        memory="1m",
        cpus=1.5,
        pids_limit=9,
        read_only=True,
        init=True,
        interactive=True,
        tty=True,
        remove=True,
        tmpfs=("/run", "/tmp:size=1m"),
        cap_add=("NET_ADMIN",),
        cap_drop=("ALL",),
        security_opt=("no-new-privileges", f"seccomp={profile}"),
        console_size=(24, 80),
    )
    config = container_config(options, attached=True)
    assert config.pop("HostConfig") == {
        "AutoRemove": True,
        "NetworkMode": "none",
        "Memory": 1 << 20,
        "NanoCpus": 1_500_000_000,
        "PidsLimit": 9,
        "ReadonlyRootfs": True,
        "Init": True,
        "Tmpfs": {"/run": "", "/tmp": "size=1m"},
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", 'seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'],
        "ConsoleSize": [24, 80],
    }
    assert config == {
        "Image": "alpine",
        "Cmd": ["sh"],
        "Entrypoint": [""],
        "Env": ["A=1"],
        "Labels": {"k": "v", "bare": ""},
        "WorkingDir": "/w",
        "User": "1:2",
        "Hostname": "h",
        "Tty": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
    }


@pytest.mark.parametrize(
    "options",
    [RunOptions("a", cpus=0), RunOptions("a", tmpfs=("run",)), RunOptions("a", security_opt=("seccomp=/none",))],
)
def test_options_that_make_no_sense(options: RunOptions) -> None:
    with pytest.raises(UserError):
        container_config(options)

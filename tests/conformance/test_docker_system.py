"""`docker info`, `version`, `events`, `system` and what needs a swarm, as a person sees them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.fakes.images import docker_archive, file, tar_of
from tests.harness import RunningEngine

# (arguments of docker, exit code, what is in the output)
COMMANDS: list[tuple[str, int, str]] = [
    ("info", 0, r"Storage Driver: overlay2\n  Backing Filesystem: \w+"),
    ("info", 0, r"Swarm: inactive"),
    ("info", 0, r"Live Restore Enabled: true"),
    ("info --format {{.Driver}}/{{.LoggingDriver}}/{{.CgroupDriver}}", 0, r"^overlay2/json-file/cgroupfs$"),
    ("info --format {{.ServerErrors}}", 0, r"^\[\]$"),
    ("version", 0, r"Server: Wherry\n Engine:\n  Version: +0\.1\.0\n  API version: +1\.51 \(minimum version 1\.24\)"),
    ("version", 0, r"Built: +\w{3} \w{3} +\d+ [\d:]{8} \d{4}"),
    ("system df", 0, r"TYPE +TOTAL +ACTIVE +SIZE +RECLAIMABLE\nImages +\d"),
    ("system df -v", 0, r"busybox +latest +[0-9a-f]{12} .* 0\n"),
    ("system df --format {{.Type}}:{{.TotalCount}}", 0, r"Build Cache:0"),
    ("builder prune -f", 0, r"Total reclaimed space: 0B|Total:\s+0B"),
    ("plugin ls -q", 0, r"^$"),
    ("plugin inspect nosuch", 1, r'plugin "nosuch" not found'),
    ("node ls", 1, r"This node is not a swarm manager. Use \"docker swarm init\""),
    ("service ls", 1, r"This node is not a swarm manager"),
    ("stack ls", 1, r"This node is not a swarm manager"),
    ("secret ls", 1, r"This node is not a swarm manager"),
    ("swarm init", 1, r"swarm mode is not supported by Wherry"),
    ("swarm leave", 1, r"This node is not part of a swarm"),
    ("login -u ada -p secret 127.0.0.1:1", 1, r"127\.0\.0\.1:1.*connection refused"),
]


@pytest.mark.parametrize("command, code, pattern", COMMANDS, ids=[f"{case[0]} {case[2]}"[:50] for case in COMMANDS])
def test_commands(engine: RunningEngine, command: str, code: int, pattern: str) -> None:
    done = engine.docker(*command.split(" "))
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == code, output
    assert re.search(pattern, output.strip() if pattern == "^$" else output, re.MULTILINE), output


def test_events(engine: RunningEngine) -> None:
    since = time.time()
    assert engine.docker("run", "--rm", "--name", "seen", "--label", "a=b", "busybox", "true").returncode == 0
    until = str(time.time())
    shape = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    given = ("events", "--since", str(since), "--until", until, "--format", shape)
    lines = engine.docker(*given, "--filter", "type=container").stdout.decode().splitlines()
    assert [line for line in lines if "attach" not in line] == [
        f"container {action} seen" for action in ("create", "start", "die", "destroy")
    ]
    lines = engine.docker(*given, "--filter", "label=a=b", "--filter", "event=die").stdout.decode().splitlines()
    assert lines == ["container die seen"]
    network = engine.docker(*given, "--filter", "type=network").stdout.decode().splitlines()
    assert network == ["network connect bridge", "network disconnect bridge"]
    # The CLI cuts relative times to whole seconds: up to one second from now.
    relative = engine.docker("events", "--since=10m", "--until=-1s", "--filter", "container=seen").stdout.decode()
    assert re.search(
        r"^\d{4}-\d\d-\d\dT\S+ container create [0-9a-f]{64} \(a=b, image=busybox, name=seen\)$", relative, re.M
    )


def test_system_prune(engine: RunningEngine, tmp_path: Path) -> None:
    docker = engine.docker
    docker("run", "--name", "stopped", "-v", "/anonymous", "busybox", "true")
    docker("run", "-d", "--name", "kept", "--stop-timeout", "0", "busybox", "sleep", "60")
    docker("network", "create", "unused")
    docker("volume", "create", "named")
    for name in ("old", "new"):
        engine.load(docker_archive(tmp_path / name, [tar_of([file(name, b"x" * 1000)])], ["pruned:1"]))
    anonymous = [volume["Name"] for volume in engine.get("/volumes")["Volumes"] if len(volume["Name"]) == 64]
    done = docker("system", "prune", "-f", "--volumes")
    output = done.stdout.decode()
    assert done.returncode == 0, done
    for wanted in ("Deleted Containers:", "Deleted Networks:\nunused", "Deleted Volumes:", "Deleted Images:", "1kB"):
        assert wanted in output, output
    assert all(name in output for name in anonymous)
    assert [container["Names"] for container in engine.get("/containers/json?all=1")] == [["/kept"]]
    assert [volume["Name"] for volume in engine.get("/volumes")["Volumes"]] == ["named"]
    assert docker("image", "inspect", "pruned:1").returncode == 0
    docker("rmi", "pruned:1")
    docker("volume", "rm", "named")

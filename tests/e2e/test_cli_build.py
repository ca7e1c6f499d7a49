"""`wherry build` as people run it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

from tests.e2e.conftest import Wherry
from tests.fakes.registries import docker_registry


def test_an_image_from_a_directory(wherry: Wherry, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG who\nCOPY . /files\nRUN --mount=type=secret,id=key,required cp /run/secrets/key /shown\n"
        "RUN echo $who > /who\n"
    )
    (tmp_path / ".dockerignore").write_text("ignored\n**/*.log\n!keep.log\nDockerfile\n.dockerignore\nkey\n")
    (tmp_path / "key").write_text("a secret")
    for name in ("ignored/x", "sub/y", "a.log", "keep.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    built = wherry(
        *("build", "-t", "cli-built", "--build-arg", "who=me", "--secret", f"id=key,src={tmp_path / 'key'}"),
        *("--iidfile", str(tmp_path / "key.iid"), "--metadata-file", str(tmp_path / "key.json"), str(tmp_path)),
    )
    assert built.returncode == 0, built.stderr
    assert "Step 2/5 : ARG who" in built.stdout
    found = wherry("run", "--rm", "cli-built", "sh", "-c", "cd /files; find . -type f | sort; cat /shown /who")
    assert found.stdout == "./keep.log\n./sub/y\na secretme\n"
    image_id = (tmp_path / "key.iid").read_text()
    assert json.loads((tmp_path / "key.json").read_text())["containerimage.config.digest"] == image_id
    quiet = wherry("build", "-q", "--build-arg", "who=me", "--secret", f"id=key,src={tmp_path / 'key'}", str(tmp_path))
    assert quiet.returncode == 0, quiet.stderr


def test_files_instead_of_an_image(wherry: Wherry, tmp_path: Path) -> None:
    text = "FROM busybox AS made\nRUN echo hello > /out.txt\nFROM scratch\nCOPY --from=made /out.txt /\n"
    done = wherry("build", "-o", str(tmp_path / "out"), "-", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/out.txt").read_text() == "hello\n"
    done = wherry("build", "-o", f"type=tar,dest={tmp_path / 'out.tar'}", "-", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert "out.txt" in archive.getnames()
    assert wherry("ps", "-aq").stdout == ""


def test_what_comes_on_standard_input(wherry: Wherry, tmp_path: Path) -> None:
    """A tar is the context, what else comes there is a Dockerfile; with -f - for a directory."""
    (tmp_path / "file").write_text("of the context\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/Other").write_text("FROM busybox\nCOPY file /\nRUN cat /file && ulimit -n\n")
    archive = subprocess.run(["tar", "-czC", str(tmp_path), "."], check=True, capture_output=True).stdout
    done = wherry("build", "-f", "deep/Other", "--ulimit", "nofile=321:400", "--no-cache", "-", stdin=archive)
    assert (done.returncode, "of the context\n321\n" in done.stdout) == (0, True), done
    text = (tmp_path / "deep/Other").read_bytes()
    done = wherry("build", "-f", "-", "--no-cache", "--cgroup-parent", "below", str(tmp_path), stdin=text)
    assert (done.returncode, "of the context\n" in done.stdout) == (0, True), done
    refused = wherry("build", "-f", "-", "https://127.0.0.1:1/x.git", stdin=text)
    assert "need a context of this computer" in refused.stderr


def test_a_build_that_fails(wherry: Wherry, tmp_path: Path) -> None:
    failed = wherry("build", "-", stdin=b"FROM busybox\nRUN echo said; exit 5\n")
    assert failed.returncode == 1
    assert "said" in failed.stdout
    assert "returned a non-zero code: 5" in failed.stderr
    assert wherry("build", str(tmp_path / "nothing")).returncode == 1


def test_the_cache_is_emptied(wherry: Wherry) -> None:
    assert wherry("build", "-", stdin=b"FROM busybox\nRUN echo x > /x\n").returncode == 0
    pruned = wherry("builder", "prune", "-a", "-f")
    assert pruned.returncode == 0, pruned.stderr
    assert "Total reclaimed space" in pruned.stdout


def test_a_dockerfile_is_checked(wherry: Wherry) -> None:
    found = wherry("build", "--check", "-", stdin=b"FROM busybox as made\nMAINTAINER me\n")
    assert found.returncode == 1
    assert "FromAsCasing" in found.stdout and "MaintainerDeprecated" in found.stdout
    known = wherry("build", "-t", "sets-a-variable", "-", stdin=b"FROM busybox\nENV KNOWN=1\n")
    assert known.returncode == 0, known.stderr
    text = b"FROM sets-a-variable\nLABEL a=$KNOWN b=$UNKNOWN\nFROM not-here\nLABEL a=$ANYTHING\n"
    found = wherry("build", "--check", "-", stdin=text)
    assert found.stdout.count("UndefinedVar") == 1 and "'$UNKNOWN'" in found.stdout, found.stdout
    wrong = wherry("build", "--check", "-", stdin=b"FROM busybox\nFORM x\n")
    assert "   2 | >>> FORM x" in wrong.stderr
    clean = wherry("build", "--check", "-", stdin=b"FROM busybox\nRUN true\n")
    assert (clean.returncode, clean.stdout) == (0, "Check complete, no warnings found.\n")


class FakeAgent:
    """An SSH agent that knows one key, and counts what it is asked."""

    def __init__(self, path: Path) -> None:
        self.asked: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as requests:
                while head := requests.read(4):
                    request = requests.read(int.from_bytes(head, "big"))
                    self.asked.append(request[0])
                    answer = b"\x0cidentities of the test"
                    client.sendall(len(answer).to_bytes(4, "big") + answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def ask(path: Path, kind: int) -> bytes:
    """What the agent at the socket answers to a request without content."""
    with socket.socket(socket.AF_UNIX) as client:
        directory = os.open(path.parent, os.O_PATH)  # the path itself may be too long
        client.settimeout(60)
        client.connect(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        client.sendall(b"\0\0\0\1" + bytes([kind]))
        with client.makefile("rb") as answers:
            return answers.read(int.from_bytes(answers.read(4), "big"))


def found(directory: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in directory.glob(pattern):
            return path
        time.sleep(0.02)
    raise AssertionError(f"there is no {pattern} in {directory}")


def test_an_ssh_agent_is_lent(wherry: Wherry, tmp_path: Path) -> None:
    """busybox has no program that speaks to unix sockets, so the test does, from outside of the container."""
    agent = FakeAgent(tmp_path / "agent")
    text = (
        "FROM busybox\nRUN --mount=type=ssh,required,uid=33,mode=0640 --mount=type=cache,target=/c,id=meeting "
        "test -S $SSH_AUTH_SOCK && stat -c '%u %a' $SSH_AUTH_SOCK && touch /c/ready && "
        "while [ ! -e /c/go ]; do sleep 0.1; done; rm /c/*\n"
        "RUN --mount=type=ssh,id=other test ! -e /run/buildkit && test -z $SSH_AUTH_SOCK\n"
    )
    try:
        environment = {**wherry.environment, "SSH_AUTH_SOCK": str(tmp_path / "agent")}
        command = wherry.command("build", "--no-cache", "--ssh", "default", "-")
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as building:
            assert building.stdin
            building.stdin.write(text.encode())
            building.stdin.close()
            building.stdin = None
            ready = found(wherry.data_root / "build/caches", "*/ready")
            offered = found(wherry.run_dir / "bundles", "*/agent-0")
            assert ask(offered, 11) == b"\x0cidentities of the test"
            assert ask(offered, 21) == b"\x05"  # to lock an agent, or to change its keys, is refused
            ready.with_name("go").touch()
            printed, errors = building.communicate(timeout=60)
        assert building.returncode == 0, (printed, errors)
        assert b"33 640" in printed
        assert agent.asked == [11]
    finally:
        agent.close()
    missing = wherry("build", "--no-cache", "-", stdin=text.encode())
    assert "unset ssh forward key default" in missing.stderr
    dead = wherry("build", "--ssh", f"default={tmp_path / 'agent'}", "-", stdin=text.encode())
    assert dead.returncode != 0 and "no SSH agent answers" in dead.stderr


def test_named_contexts_and_every_output(wherry: Wherry, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "file").write_text("from the other directory\n")
    (extra / "left-out").write_text("")
    (extra / ".dockerignore").write_text("left-out\n.dockerignore\n")
    text = b"# syntax=docker/dockerfile:1\nFROM base\nCOPY --from=extra . /extra\n"
    outputs = [f"type=oci,dest={tmp_path / 'oci.tar'}", f"type=docker,dest={tmp_path / 'docker.tar'}", "-"]
    done = subprocess.run(
        wherry.command(
            *("build", "-t", "named-contexts", "--build-context", f"extra={extra}"),
            *(
                "--build-context",
                "base=docker-image://busybox",
                *(word for one in outputs for word in ("-o", one)),
                "-",
            ),
        ),
        env=wherry.environment,
        input=text,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = archive.getnames()
        assert "extra/file" in names and "extra/left-out" not in names
    for name in ("oci.tar", "docker.tar"):
        with tarfile.open(tmp_path / name) as archive:
            assert {"oci-layout", "index.json", "manifest.json"} <= set(archive.getnames())
    assert wherry("run", "--rm", "named-contexts", "cat", "/extra/file").stdout == "from the other directory\n"


def test_options_that_are_refused(wherry: Wherry, tmp_path: Path) -> None:
    for options, expected in {
        ("--squash",): "--squash is not supported",
        ("-o", "type=nothing"): "nothing is no type",
        ("-o", "type=local"): "it needs dest=DIRECTORY",
        ("-o", "type=tar,compression=zstd"): "compression is not supported",
        ("--ssh", f"default={tmp_path}"): "is no socket",
        ("--build-context", "x"): "invalid context value",
        ("--build-context", f"x={tmp_path}/missing"): "it is no directory",
        ("--push",): "no name to push",
        ("--ulimit", "nofile"): "invalid ulimit argument",
    }.items():
        refused = wherry("build", *options, "-", stdin=b"FROM busybox\n")
        assert refused.returncode != 0 and expected in refused.stderr, (options, refused.stderr)


def test_the_cache_travels(wherry: Wherry, tmp_path: Path) -> None:
    """By a registry, by a directory, and within an image; each time the engine has nothing of it left."""
    text = (
        b"FROM busybox AS first\nRUN head -c 16 /dev/urandom > /random\n"
        b"FROM busybox\nENV a=b\nCOPY --from=first /random /r\nCOPY --link --from=first /random /deep/r\n"
        b"RUN date +%N > /n\n"
    )

    def build(*options: str, image: str = "travelled") -> str:
        done = wherry("build", "-t", image, *options, "-", stdin=text)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def content() -> str:
        return wherry("run", "--rm", "travelled", "sh", "-c", "cat /n; md5sum /r /deep/r").stdout

    def forget() -> None:
        for command in (("rmi", "-f", "travelled"), ("builder", "prune", "-a", "-f")):
            wherry(*command)

    with docker_registry(tmp_path / "registry") as address:
        registry = f"type=registry,ref={address}/team/cache:main,mode=max"
        local = tmp_path / "local"
        build("--cache-to", registry, "--cache-to", f"type=local,dest={local},mode=max")
        made = content()
        for source in (registry, f"type=local,src={local}"):
            forget()
            assert build("--cache-from", source).count("Using cache") == 5, source
            assert content() == made
        assert build().count("Using cache") == 5  # and is in the engine's own cache now
        image = f"{address}/team/image"
        build("--cache-to", "type=inline", "--push", image=image)
        forget()
        wherry("rmi", "-f", image)
        assert build("--cache-from", f"type=registry,ref={image}").count("Using cache") >= 1
    forget()
    out = build("--cache-from", f"type=registry,ref={address}/team/cache:main")
    assert "Using cache" not in out  # a registry that is gone is no reason to fail
    refused = wherry("build", "--cache-to", "type=s3,bucket=x", "-", stdin=text)
    assert refused.returncode and "the cache type s3 is not supported" in refused.stderr

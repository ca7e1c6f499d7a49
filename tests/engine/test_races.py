"""A container that swaps files for symbolic links, as fast as it can, while the engine works on them."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.test_escape import HOST_LIBRARIES, PYTHON, needs_python
from tests.harness import RunningEngine

pytestmark = needs_python

ROUNDS = 30

# renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE)
SWAP = """
import ctypes, sys
call = ctypes.CDLL(None).syscall
a, b = (argument.encode() for argument in sys.argv[1:3])
print("swapping", flush=True)
while True:
    call(316, -100, a, -100, b, 2)
"""


@contextlib.contextmanager
def swapping(engine: RunningEngine, name: str, prepare: str, one: str, other: str, *options: str) -> Iterator[None]:
    """A container `name` that exchanges two of its files without end."""
    script = f'{prepare} && exec {PYTHON} -c "$0" {one} {other}'
    arguments = ["run", "-d", "--name", name, "--network=none", *options, *HOST_LIBRARIES, "busybox"]
    done = engine.docker(*arguments, "sh", "-c", script, SWAP)
    assert done.returncode == 0, done
    with contextlib.closing(_lines(engine, name)) as lines:
        assert b"swapping" in next(lines)
        yield
    assert engine.get(f"/containers/{name}/json")["State"]["Running"], engine.docker("logs", name)


def _lines(engine: RunningEngine, name: str) -> Iterator[bytes]:
    """Of its log, as they come."""
    while True:
        logs = engine.docker("logs", name)
        if logs.stdout:
            yield logs.stdout
        assert not logs.stderr and engine.get(f"/containers/{name}/json")["State"]["Running"], logs


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host's that is in no container, though a symbolic link there may name it."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("of the host")
    yield directory
    assert [path.name for path in directory.iterdir()] == ["secret"]
    assert (directory / "secret").read_text() == "of the host"


def fetch(engine: RunningEngine, path: str) -> tuple[int, bytes]:
    """As much as comes of an archive: it is cut short where the walk through a tree lost its way."""
    try:
        return engine.request("GET", path)
    except http.client.IncompleteRead as cut:
        return 200, cut.partial


def archive_of(name: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in (name, "secret"):
            info = tarfile.TarInfo(path)
            info.size = 7
            archive.addfile(info, io.BytesIO(b"written"))
    return data.getvalue()


def test_copies_race_with_links(engine: RunningEngine, outside: Path) -> None:
    """CVE-2018-15664: neither out of the container nor into it does `docker cp` follow a link to the host's files."""
    prepare = f"mkdir -p /a/deep && echo inside > /a/secret && ln -s {outside} /b"
    with swapping(engine, "swapper", prepare, "/a", "/b"):
        into = engine.request("PUT", "/containers/swapper/archive?path=/a/deep", archive_of("x"))
        answers = [into[0]]
        for number in range(ROUNDS):
            status, body = fetch(engine, "/containers/swapper/archive?path=/a/secret")
            assert b"of the host" not in body and status < 500, (status, body[:300])
            answers.append(status)
            status, body = engine.request("PUT", "/containers/swapper/archive?path=/a", archive_of(f"n{number}"))
            assert status < 500, body
            answers.append(status)
            status, body = fetch(engine, "/containers/swapper/archive?path=/a")
            assert b"of the host" not in body and status < 500, (status, body[:300])
            answers.append(status)
        _, body = fetch(engine, "/containers/swapper/export")
        assert b"of the host" not in body
    assert set(answers) <= {200, 400, 404}, answers


def test_mount_targets_race_with_links(engine: RunningEngine, outside: Path) -> None:
    """CVE-2021-30465, CVE-2024-45310: a volume's other user swaps a directory on the way to a mount's target."""
    prepare = f"cd /shared && mkdir -p dir && ln -s {outside} link"
    volume = "--volume=raced:/shared"
    with swapping(engine, "swapper", prepare, "/shared/dir", "/shared/link", volume):
        for number in range(ROUNDS // 3):
            targets = [f"--tmpfs=/shared/dir/t{number}", f"--volume=/shared/dir/v{number}"]
            done = engine.docker("run", "--rm", "--network=none", volume, *targets, "busybox", "cat", "/proc/mounts")
            if done.returncode:  # the target was exchanged between being made and being opened
                assert done.returncode in (125, 127), done
                continue
            lines = [line.split() for line in done.stdout.decode().splitlines()]
            points = [fields[1] for fields in lines]
            for kind in "tv":
                # Where it is mounted is a place in the container, by whichever of the two ways.
                wanted = (f"/shared/dir/{kind}{number}", f"/shared/link/{kind}{number}", f"{outside}/{kind}{number}")
                assert [point for point in points if point in wanted], (number, points)
    engine.docker("rm", "-f", "swapper")
    engine.docker("volume", "rm", "raced")


def test_the_null_device_races_with_links(engine: RunningEngine, tmp_path: Path) -> None:
    """CVE-2025-31133: what is masked stays masked, or nothing starts, whatever /dev/null is at that moment."""
    prepare = "cd /shared && mknod null c 1 3 && ln -s /proc/version link && mkdir -p pts shm mqueue"
    with swapping(engine, "swapper", prepare, "/shared/null", "/shared/link", "--volume=devices:/shared"):
        codes = set()
        for _ in range(ROUNDS // 3):
            look = "cat /proc/keys /proc/timer_list /proc/interrupts; echo x > /proc/sys/kernel/hostname"
            done = engine.docker("run", "--rm", "--network=none", "--volume=devices:/dev", "busybox", "sh", "-c", look)
            assert done.stdout == b"", done
            codes.add(done.returncode)
    assert codes <= {1, 125, 126, 127}, codes
    engine.docker("rm", "-f", "swapper")
    engine.docker("volume", "rm", "devices")


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd", "/nowhere"])
def test_a_console_that_is_a_link(engine: RunningEngine, tmp_path: Path, target: str) -> None:
    """CVE-2025-52565: the terminal is never mounted where a link at /dev/console leads."""
    devices = tmp_path / "dev"
    (devices / "pts").mkdir(parents=True)
    (devices / "console").symlink_to(target)
    os.mknod(devices / "null", 0o20666, os.makedev(1, 3))
    pts = "--mount=type=bind,source=/dev/pts,target=/dev/pts"
    options = ["--rm", "-t", "--network=none", f"--volume={devices}:/dev", pts]
    done = engine.docker("run", *options, "busybox", "cat", "/proc/mounts")
    assert done.returncode == 125 and b"/dev/console" in done.stderr, done
    assert not (devices / "nowhere").exists() and not Path("/nowhere").exists()

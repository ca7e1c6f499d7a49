"""docker cp, export, diff and commit, with the real CLI; and what a hostile container or archive may not do."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from tests.fakes.images import directory, file, symlink, tar_of
from tests.harness import RunningEngine


def ok(engine: RunningEngine, *arguments: str, input: bytes | None = None) -> str:
    done = engine.docker(*arguments, input=input)
    assert done.returncode == 0, done
    return done.stdout.decode()


def refused(engine: RunningEngine, *arguments: str, input: bytes | None = None) -> str:
    done = engine.docker(*arguments, input=input)
    assert done.returncode != 0, done
    return done.stderr.decode()


@pytest.fixture(params=["running", "stopped"])
def box(engine: RunningEngine, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A container with a volume, a read-only bind and some files, running or stopped."""
    (tmp_path / "bind").mkdir()
    (tmp_path / "bind/fixed").write_text("bind\n")
    binds = ["-v", "/vol", "-v", f"{tmp_path}/bind:/bind:ro"]
    script = (
        "mkdir -p /data/sub; echo a > /data/a; echo v > /vol/v; ln -s /data /link;"
        "ln -s ../../../../etc/passwd /up;"
        "chown 33:33 /data/a; ln /data/a /data/sub/hard; exec sleep 60"
    )
    ok(engine, "run", "-d", "--name", "box", *binds, "busybox", "sh", "-c", script)
    while engine.docker("exec", "box", "test", "-e", "/data/sub/hard").returncode:
        pass
    if request.param == "stopped":
        ok(engine, "stop", "-t", "0", "box")
    return "box"


def test_out(engine: RunningEngine, box: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ok(engine, "cp", f"{box}:/data", str(out))
    assert (out / "a").read_text() == "a\n"
    assert (out / "a").stat().st_ino == (out / "sub/hard").stat().st_ino
    ok(engine, "cp", f"{box}:/data/.", str(tmp_path / "into"))
    assert (tmp_path / "into/a").exists()
    ok(engine, "cp", f"{box}:/link/a", str(tmp_path / "one"))
    assert (tmp_path / "one").read_text() == "a\n"
    ok(engine, "cp", f"{box}:/link", str(tmp_path / "as-link"))
    assert os.readlink(tmp_path / "as-link") == "/data"
    ok(engine, "cp", "-L", f"{box}:/link", str(tmp_path / "as-dir"))
    assert (tmp_path / "as-dir/a").exists()
    for source, content in (("/vol/v", "v\n"), ("/bind/fixed", "bind\n")):
        ok(engine, "cp", f"{box}:{source}", str(tmp_path / "mounted"))
        assert (tmp_path / "mounted").read_text() == content
    ok(engine, "cp", f"{box}:/vol", str(tmp_path / "volume"))
    assert (tmp_path / "volume/v").exists()
    passwd = subprocess.run(
        ["tar", "-xO"], input=engine.docker("cp", "-L", f"{box}:/up", "-").stdout, capture_output=True, check=True
    )
    assert b"www-data" in passwd.stdout and b"nonexistent" in passwd.stdout  # the image's, not the host's
    assert f"Could not find the file /nosuch in container {box}" in refused(engine, "cp", f"{box}:/nosuch", "-")


def test_in(engine: RunningEngine, box: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/file").write_text("in\n")
    os.chown(tree / "deep/file", 1234, 1234)
    ok(engine, "cp", str(tree), f"{box}:/new")
    ok(engine, "cp", f"{tree}/.", f"{box}:/link/")
    ok(engine, "cp", str(tree / "deep/file"), f"{box}:/vol/file")
    ok(engine, "cp", "-", f"{box}:/data/sub", input=tar_of([file("from-tar", b"tar\n")]))
    shown = [
        ("/new/deep/file", "in\n"),
        ("/data/deep/file", "in\n"),
        ("/vol/file", "in\n"),
        ("/data/sub/from-tar", "tar\n"),
    ]
    for path, content in shown:
        ok(engine, "cp", f"{box}:{path}", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == content
    with tarfile.open(fileobj=io.BytesIO(engine.docker("cp", f"{box}:/new/deep/file", "-").stdout)) as tar:
        assert tar.getmembers()[0].uid == 1234
    assert "mounted volume is marked read-only" in refused(engine, "cp", str(tree), f"{box}:/bind/")
    answer = engine.message("PUT", f"/containers/{box}/archive?path=/data/a", tar_of([file("x")]))
    assert answer == (400, "extraction point is not a directory")
    assert "Could not find the file /nosuch" in refused(engine, "cp", str(tree), f"{box}:/nosuch/below")


def test_a_read_only_root(engine: RunningEngine, tmp_path: Path) -> None:
    ok(engine, "create", "--name", "fixed", "--read-only", "-v", "/vol", "busybox", "true")
    (tmp_path / "x").write_text("x")
    assert "container rootfs is marked read-only" in refused(engine, "cp", str(tmp_path / "x"), "fixed:/")
    ok(engine, "cp", str(tmp_path / "x"), "fixed:/vol/")


def test_copy_as_the_containers_user(engine: RunningEngine, tmp_path: Path) -> None:
    ok(engine, "create", "--name", "web", "-u", "www-data", "busybox", "stat", "-c", "%u:%g", "/tmp/x", "/tmp/y")
    (tmp_path / "x").write_text("x")
    assert engine.request("PUT", "/containers/web/archive?path=/tmp&copyUIDGID=1", tar_of([file("x")]))[0] == 200
    assert engine.request("PUT", "/containers/web/archive?path=/tmp", tar_of([file("y", uid=7, gid=8)]))[0] == 200
    assert ok(engine, "start", "-a", "web").split() == ["33:33", "7:8"]


@pytest.mark.parametrize("state", ["created", "running"])
def test_a_hostile_archive_stays_inside(engine: RunningEngine, tmp_path: Path, state: str) -> None:
    ok(engine, "create", "--name", "box", "busybox", "sleep", "60")
    if state == "running":
        ok(engine, "start", "box")
    victim = tmp_path / "victim"
    victim.mkdir()
    for entries in (
        [symlink("out", str(victim)), file("out/hit")],
        [symlink("up", "../../../../../../../../" + str(victim)), directory("up"), file("up/hit")],
        [file("../../../../../../../.." + str(victim) + "/hit")],
        [file(f"{victim}/hit")],
    ):
        engine.request("PUT", "/containers/box/archive?path=/tmp", tar_of(entries))
    assert list(victim.iterdir()) == []


def test_a_symlink_race_stays_inside(engine: RunningEngine, tmp_path: Path) -> None:
    """CVE-2018-15664: the container swaps a directory for a link to the host's while files are copied."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("host")
    script = f"mkdir -p /d{victim} /s{victim}; cd /; while :; do mv d x; ln -s / d; rm d; mv x d; done"
    ok(engine, "run", "-d", "--name", "racer", "busybox", "sh", "-c", script)
    seen: list[bytes] = []

    def read() -> None:
        for _ in range(60):
            seen.append(engine.request("GET", f"/containers/racer/archive?path=/d{victim}/secret")[1])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(60):
        engine.request("PUT", f"/containers/racer/archive?path=/d{victim}", tar_of([file("planted", b"x")]))
    reader.join()
    assert sorted(path.name for path in victim.iterdir()) == ["secret"]
    assert not any(b"host" in body for body in seen)


def test_a_large_file_goes_through(engine: RunningEngine) -> None:
    """Both ways, with the engine's memory staying where it was."""
    ok(engine, "run", "--name", "large", "busybox", "sh", "-c", "head -c 64m /dev/zero > /big")
    archive = engine.docker("cp", "large:/big", "-").stdout
    assert len(archive) > 64 << 20
    ok(engine, "cp", "-", "large:/tmp", input=archive)
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 150_000


def test_diff(engine: RunningEngine) -> None:
    script = "echo x > /etc/new; rm /etc/group; mkdir /made; echo y > /made/file; echo z >> /etc/passwd; touch /vol/no"
    ok(engine, "run", "--name", "changed", "-v", "/vol", "busybox", "sh", "-c", script)
    lines = ["A /made", "A /made/file", "A /vol", "C /etc", "A /etc/new", "C /etc/passwd", "D /etc/group"]
    assert sorted(ok(engine, "diff", "changed").splitlines()) == sorted(lines)
    ok(engine, "run", "--name", "same", "busybox", "true")
    assert ok(engine, "diff", "same") == ""


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_export_and_import(engine: RunningEngine, state: str) -> None:
    ok(engine, "run", "-d", "--name", "source", "-v", "/vol", "busybox", "sh", "-c", "echo e > /made; exec sleep 60")
    while engine.docker("exec", "source", "test", "-s", "/made").returncode:
        pass
    if state == "stopped":
        ok(engine, "stop", "-t", "0", "source")
    archive = engine.docker("export", "source").stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        assert "made" in names and "bin/busybox" in names
        assert not any(name.startswith(("proc/", "sys/", "vol/")) for name in names)
    ok(engine, "import", "-", "flat:1", input=archive)
    assert ok(engine, "run", "--rm", "flat:1", "/bin/cat", "/made") == "e\n"
    ok(engine, "rmi", "flat:1")


def test_commit(engine: RunningEngine) -> None:
    script = "echo c > /made; rm /etc/group; exec sleep 60"
    ok(engine, "run", "-d", "--name", "worker", "-e", "A=1", "-l", "l=1", "busybox", "sh", "-c", script)
    while engine.docker("exec", "worker", "test", "-s", "/made").returncode:
        pass
    change = ["--change", "CMD cat /made", "--change", "ENV B=2"]
    id = ok(engine, "commit", "-m", "said", "-a", "me", *change, "worker", "made/image:7").strip()
    shown = json.loads(ok(engine, "image", "inspect", "made/image:7"))[0]
    assert shown["Id"] == id
    assert {"A=1", "B=2"} <= set(shown["Config"]["Env"])
    assert shown["Config"]["Labels"] == {"l": "1"}
    assert (shown["Author"], shown["Comment"]) == ("me", "said")
    worker = engine.get("/containers/worker/json")
    assert worker["State"]["Status"] == "running"
    older = engine.get("/v1.44/images/made/image:7/json")  # later ones do not tell
    assert (older["Container"], older["ContainerConfig"]["Image"]) == (worker["Id"], "busybox")
    assert ok(engine, "run", "--rm", "made/image:7") == "c\n"
    assert engine.docker("run", "--rm", "made/image:7", "test", "-e", "/etc/group").returncode == 1
    assert ok(engine, "history", "--format", "{{.Comment}}", "made/image:7").splitlines()[0] == "said"
    base = json.loads(ok(engine, "image", "inspect", "busybox"))[0]["Id"]
    assert ok(engine, "history", "-q", "--no-trunc", "made/image:7").split() == [id, base]
    assert ok(engine, "diff", "worker").splitlines() == ["C /etc", "D /etc/group", "A /made"]
    assert engine.docker("cp", "-", "worker:/tmp", input=b"").returncode == 0
    ok(engine, "rm", "-f", "worker")
    ok(engine, "rmi", "made/image:7")

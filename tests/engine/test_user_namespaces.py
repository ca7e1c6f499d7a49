"""`--userns-remap`: root in a container is nobody on the host, and everything else goes on as without it."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningEngine

FIRST_ID = 300000


@pytest.fixture(scope="module")
def remapped(tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path) -> Iterator[RunningEngine]:
    """With ids of a user of the host's, whose lines in /etc/subuid and /etc/subgid are seen by this engine alone."""
    directory = tmp_path_factory.mktemp("remapped")
    (directory / "ids").write_text(f"nobody:{FIRST_ID}:65536\nnogroup:{FIRST_ID}:65536\n")
    if not (Path("/etc/subuid").exists() and Path("/etc/subgid").exists()):
        pytest.skip("there is no /etc/subuid here to mount another over")
    script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
    prefix = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, str(directory / "ids")]
    running = RunningEngine(directory, "--userns-remap", "nobody:nogroup", prefix=prefix)
    running.load(busybox_archive)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _no_containers_stay(remapped: RunningEngine) -> Iterator[None]:
    yield
    for container in remapped.get("/containers/json?all=1"):
        remapped.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")


def run(engine: RunningEngine, *arguments: str, code: int = 0) -> str:
    done = engine.docker("run", "--rm", *arguments)
    assert done.returncode == code, done
    return (done.stdout if code == 0 else done.stderr).decode().strip()


def test_who_is_who(remapped: RunningEngine) -> None:
    assert run(remapped, "busybox", "cat", "/proc/self/uid_map").split() == ["0", str(FIRST_ID), "65536"]
    assert run(remapped, "busybox", "cat", "/proc/self/gid_map").split() == ["0", str(FIRST_ID), "65536"]
    assert run(remapped, "busybox", "sh", "-c", "id -u; id -g; stat -c %u:%g / /bin/sh /dev /dev/shm /tmp") == (
        "0\n0\n0:0\n0:0\n0:0\n0:0\n0:0"
    )
    assert run(remapped, "-u", "www-data", "busybox", "sh", "-c", "id -u; grep CapEff /proc/self/status") == (
        "33\nCapEff:\t0000000000000000"
    )
    assert "name=userns" in remapped.get("/info")["SecurityOptions"]
    remapped.docker("run", "-d", "--name", "seen", "busybox", "sleep", "100")
    pid = remapped.get("/containers/seen/json")["State"]["Pid"]
    assert os.stat(f"/proc/{pid}").st_uid == FIRST_ID
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (status["Seccomp"], status["CapBnd"]) == ("2", "00000000a80425fb")


def test_what_it_writes(remapped: RunningEngine) -> None:
    """Files keep the ids the container sees, so that images and volumes are everybody's."""
    script = "touch /new /etc/passwd && chown 12:34 /new && rm /etc/group && mkdir -p /a/b && stat -c %u:%g /new /a/b"
    done = remapped.docker("run", "--name", "writer", "busybox", "sh", "-c", script)
    assert done.stdout.split() == [b"12:34", b"0:0"], done
    changes = remapped.docker("diff", "writer").stdout.decode().splitlines()
    assert {"A /new", "C /etc/passwd", "D /etc/group", "A /a", "A /a/b"} <= set(changes)
    remapped.docker("commit", "writer", "written")
    assert run(remapped, "written", "stat", "-c", "%u:%g", "/new", "/a/b") == "12:34\n0:0"
    image = ("--mount", "type=image,source=written,target=/i")  # of two layers: an overlay of its own
    assert run(remapped, *image, "busybox", "stat", "-c", "%u:%g", "/i/new", "/i/a/b") == "12:34\n0:0"
    assert run(remapped, "--userns", "host", "written", "stat", "-c", "%u:%g", "/new", "/a/b") == "12:34\n0:0"
    assert remapped.docker("rmi", "-f", "written").returncode == 0


def test_volumes_and_binds(remapped: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "roots").write_text("secret")
    (tmp_path / "roots").chmod(0o600)
    tmp_path.chmod(0o755)
    run(remapped, "-v", "shared:/data", "busybox", "sh", "-c", "echo x > /data/file && chown 5:6 /data/file")
    assert run(remapped, "--userns=host", "-v", "shared:/d", "busybox", "stat", "-c", "%u:%g", "/d/file") == "5:6"
    assert run(remapped, "-v", "shared:/data", "busybox", "stat", "-c", "%u:%g", "/data/file", "/data") == "5:6\n0:0"
    # The host's own files are not its root's: as with dockerd.
    look = "stat -c %u /host/roots; cat /host/roots && echo read; touch /host/new && echo made"
    done = remapped.docker("run", "--rm", "-v", f"{tmp_path}:/host", "busybox", "sh", "-c", look)
    assert done.stdout.split() == [b"65534"], done
    run(
        remapped,
        "--tmpfs",
        "/scratch:uid=7",
        "busybox",
        "sh",
        "-c",
        "touch /scratch/x; test $(stat -c %u /scratch) = 7",
    )
    run(remapped, "--read-only", "-v", "/anonymous", "busybox", "touch", "/anonymous/x")
    mounted = run(
        remapped, "--mount", "type=image,source=busybox,target=/image", "busybox", "stat", "-c%u", "/image/bin"
    )
    assert mounted == "0"
    remapped.request("DELETE", "/volumes/shared")


def test_devices_and_terminals(remapped: RunningEngine) -> None:
    script = "echo out > /dev/stdout; echo err > /dev/stderr; head -c1 /dev/zero | wc -c; echo > /dev/null"
    done = remapped.docker("run", "--rm", "--device", "/dev/null:/dev/own", "busybox", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n1\n", b"err\n"), done
    out = run(remapped, "-t", "busybox", "sh", "-c", "tty; stat -c %u:%g $(tty); echo > /dev/tty")
    assert out.split() == ["/dev/pts/0", "0:5"]
    assert "Operation not permitted" in run(remapped, "busybox", "mknod", "/disk", "b", "254", "0", code=1)


def test_exec(remapped: RunningEngine) -> None:
    remapped.docker("run", "-d", "--name", "inner", "busybox", "sleep", "100")
    look = (
        "cat /proc/self/uid_map; id -u; echo x > /dev/stdout; touch /by-exec; stat -c %u /by-exec; kill -0 1 && echo k"
    )
    done = remapped.docker("exec", "inner", "sh", "-c", look)
    assert done.stdout.split() == [b"0", str(FIRST_ID).encode(), b"65536", b"0", b"x", b"0", b"k"], done
    done = remapped.docker("exec", "-u", "www-data", "inner", "sh", "-c", "id -u; cat /etc/shadow; touch /etc/x")
    assert done.stdout.split() == [b"33"] and b"denied" in done.stderr, done


@pytest.mark.parametrize("running", [True, False])
def test_copies(remapped: RunningEngine, tmp_path: Path, running: bool) -> None:
    remapped.docker("run", "-d", "--name", "files", "-v", "copied:/volume", "busybox", "sleep", "100")
    if not running:
        remapped.docker("kill", "files")
        remapped.post("/containers/files/wait", expect=200)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("owned")
        info.uid, info.gid, info.size = 3, 4, 1
        archive.addfile(info, io.BytesIO(b"x"))
    for directory in ("/new/deep", "/volume"):
        assert remapped.request("PUT", "/containers/files/archive?path=/", _directories(directory))[0] == 200
        assert remapped.request("PUT", f"/containers/files/archive?path={directory}", data.getvalue())[0] == 200
        status, body = remapped.request("GET", f"/containers/files/archive?path={directory}/owned")
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            member = archive.getmember("owned")
        assert (status, member.uid, member.gid) == (200, 3, 4)
    remapped.docker("start", "files")
    done = remapped.docker("exec", "files", "stat", "-c", "%u:%g", "/new/deep/owned", "/new/deep", "/volume/owned")
    assert done.stdout.split() == [b"3:4", b"0:0", b"3:4"], done
    status, body = remapped.request("GET", "/containers/files/export")
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert (archive.getmember("new/deep/owned").uid, archive.getmember("bin/sh").uid) == (3, 0)


def _directories(path: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for depth in range(2, path.count("/") + 2):
            info = tarfile.TarInfo("/".join(path.split("/")[1:depth]))
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
    return data.getvalue()


def test_networks_and_names(remapped: RunningEngine) -> None:
    remapped.docker("network", "create", "mapped")
    remapped.docker(
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "mapped",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sh",
        "-c",
        "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp",
    )
    out = run(
        remapped,
        "--network",
        "mapped",
        "busybox",
        "sh",
        "-c",
        "until wget -qO- http://web/ 2>/dev/null; do :; done; echo 1.2.3.4 other >> /etc/hosts && hostname",
    )
    assert out.startswith("hello")
    address = remapped.docker("port", "web", "80").stdout.decode().strip()
    assert run(remapped, "--userns=host", "--network=host", "busybox", "wget", "-qO-", f"http://{address}/") == "hello"
    remapped.docker("rm", "-f", "web")
    assert remapped.docker("network", "rm", "mapped").returncode == 0


def test_builds(remapped: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the context")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN --mount=type=cache,target=/cache --mount=type=bind,source=file,target=/bound "
        "cat /proc/self/uid_map > /map && cp /bound /made && chown 8:9 /made && touch /cache/x\n"
        "COPY --chown=7 file /copied\n"
    )
    done = remapped.docker("build", "-t", "mapped", str(tmp_path))
    assert done.returncode == 0, done
    seen = run(remapped, "mapped", "sh", "-c", "cat /map; stat -c %u:%g /made /copied")
    assert seen.split() == ["0", str(FIRST_ID), "65536", "8:9", "7:7"]
    remapped.docker("rmi", "-f", "mapped")


def test_opting_out(remapped: RunningEngine) -> None:
    assert run(remapped, "--userns", "host", "busybox", "cat", "/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    run(remapped, "--userns", "host", "--privileged", "busybox", "true")
    for options, words in {
        ("--privileged",): "privileged mode is incompatible with user namespaces.  You must run the container",
        ("--network", "host"): "cannot share the host's network namespace when user namespaces are enabled",
        ("--pid", "host"): "cannot share the host PID namespace when user namespaces are enabled",
        ("--cap-add", "NET_ADMIN"): "--cap-add NET_ADMIN: in this version of Wherry",
        ("-u", "100000"): "user 100000 is outside of the container's user namespace",
    }.items():
        assert words in run(remapped, *options, "busybox", "true", code=125), options


def test_sharing(remapped: RunningEngine) -> None:
    remapped.docker(
        "run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sh", "-c", "echo x > /dev/shm/x; sleep 100"
    )
    joined = ["--pid=container:donor", "--ipc=container:donor", "--network=container:donor"]
    look = "until cat /dev/shm/x 2>/dev/null; do :; done; kill -0 1 && stat -c %u /dev/shm/x /proc/1"
    assert run(remapped, *joined, "busybox", "sh", "-c", look).split() == ["x", "0", "0"]


def test_mounting_with_the_capability(remapped: RunningEngine) -> None:
    """As with dockerd: what a user namespace's root may mount, in a mount namespace of its own."""
    options = ["--cap-add", "SYS_ADMIN"]
    run(remapped, *options, "busybox", "sh", "-c", "mount -t tmpfs none /tmp && touch /tmp/x && hostname other")
    for command in ("umount /proc/sys", "mount -o remount,rw /sys", "mount -t sysfs none /tmp", "umount /proc/keys"):
        done = remapped.docker("run", "--rm", *options, "busybox", "sh", "-c", command)
        assert done.returncode != 0, (command, done)


def test_nothing_is_owned_by_these_ids(remapped: RunningEngine) -> None:
    run(remapped, "-v", "/made", "busybox", "sh", "-c", "touch /made/x /x; chmod u+s /x")
    remapped.docker("run", "--name", "left", "busybox", "touch", "/left")
    for directory, _, names in os.walk(remapped.data_root):
        for name in names:
            info = os.lstat(f"{directory}/{name}")
            assert info.st_uid < FIRST_ID, (directory, name)
    # What root of a container leaves in a volume is not to be run by the host's users.
    assert stat.S_IMODE(remapped.data_root.stat().st_mode) == 0o710

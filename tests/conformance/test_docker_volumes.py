"""Volumes and mounts as the docker CLI asks for them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.images import (
    busybox_rootfs,
    directory,
    docker_archive,
    file,
    hard_link,
    symlink,
    tar_of,
)
from tests.harness import RunningEngine


@pytest.fixture(scope="module", autouse=True)
def _images(engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`data`: an image whose /data comes of two layers; `one`: an image of one layer that runs nothing."""
    bottom = [
        directory("data", 0o750, uid=1000, gid=2000),
        file("data/kept", b"kept", 0o640, uid=1000, mtime=1_000_000_000),
        file("data/removed", b"x"),
        directory("data/sub", 0o700, uid=3),
        file("data/sub/deep", b"deep", 0o4755),
        symlink("data/link", "/etc/passwd", uid=7),
        hard_link("data/again", "data/kept"),
        directory("empty", 0o1777, uid=5, gid=6),
        symlink("by-link", "/data/sub"),
        directory("proc"),
        symlink("to-root", "/"),
        symlink("to-proc", "/proc/sys"),
    ]
    top = [file("data/.wh.removed"), file("data/new", b"new")]
    layers = [tar_of(busybox_rootfs(bottom)), tar_of(top)]
    path = tmp_path_factory.mktemp("images")
    engine.load(docker_archive(path / "data.tar", layers, ["data:latest"], {"Cmd": ["sh"], "Volumes": {"/data": {}}}))
    one = [tar_of([directory("share"), file("share/file", b"from the image\n"), symlink("out", "/etc")])]
    engine.load(docker_archive(path / "one.tar", one, ["one:latest"], {"Cmd": ["none"]}))


@pytest.fixture(autouse=True)
def _no_volumes_left(engine: RunningEngine) -> Iterator[None]:
    yield
    for container in engine.get("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    for volume in engine.get("/volumes")["Volumes"]:
        assert engine.request("DELETE", f"/volumes/{volume['Name']}")[0] == 204, volume
    assert str(engine.data_root / "volumes") not in Path("/proc/self/mountinfo").read_text()
    assert list((engine.data_root / "volumes").iterdir()) == []


def ok(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def refused(engine: RunningEngine, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode != 0, done
    return done.stderr.decode().strip()


def inspect(engine: RunningEngine, name: str) -> Any:
    return json.loads(ok(engine, "volume", "inspect", name))[0]


def sh(engine: RunningEngine, *options: str, image: str = "busybox") -> str:
    *options_, script = options
    return ok(engine, "run", "--rm", *options_, image, "sh", "-c", script)


# --- docker volume


def test_create_and_inspect(engine: RunningEngine) -> None:
    assert ok(engine, "volume", "create", "--label", "a=b", "plain") == "plain"
    shown = inspect(engine, "plain")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown.pop("CreatedAt"))
    assert shown == {
        "Driver": "local",
        "Labels": {"a": "b"},
        "Mountpoint": str(engine.data_root / "volumes/plain/_data"),
        "Name": "plain",
        "Options": None,
        "Scope": "local",
    }
    anonymous = ok(engine, "volume", "create")
    assert re.fullmatch("[0-9a-f]{64}", anonymous)
    assert inspect(engine, anonymous)["Labels"] == {"com.docker.volume.anonymous": ""}
    assert ok(engine, "volume", "create", "plain") == "plain"  # again: the same one
    assert inspect(engine, "plain")["Labels"] == {"a": "b"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--opt", "nosuch=1", "v1"], 'create v1: invalid option: "nosuch"'),
        (["--opt", "type=tmpfs", "v1"], 'create v1: missing required option: "device"'),
        (["--opt", "device=/x", "v1"], 'create v1: missing required option: "type"'),
        (["--opt", "size=1g", "v1"], "quota size requested but no quota support"),
        (["--driver", "nosuch", "v1"], 'error looking up volume plugin nosuch: plugin "nosuch" not found'),
        (["a/b"], '"a/b" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]"'),
        (["x"], "volume name is too short, names should be at least two alphanumeric characters"),
        (["--scope", "single", "--availability", "active", "v1"], "swarm"),
    ],
)
def test_refused_volumes(engine: RunningEngine, arguments: list[str], words: str) -> None:
    assert words in refused(engine, "volume", "create", *arguments)


def test_list_and_filters(engine: RunningEngine) -> None:
    ok(engine, "volume", "create", "--label", "tier=db", "one-db")
    ok(engine, "volume", "create", "two")
    ok(engine, "create", "-v", "two:/x", "busybox")

    def names(*filters: str) -> list[str]:
        return ok(engine, "volume", "ls", "-q", *(f"--filter={one}" for one in filters)).split()

    assert names() == ["one-db", "two"]
    assert names("name=db") == ["one-db"]
    assert names("name=^t") == ["two"]
    assert names("label=tier") == names("label=tier=db") == ["one-db"]
    assert names("label=tier=web") == []
    assert names("dangling=true") == ["one-db"]
    assert names("dangling=false") == ["two"]
    assert names("driver=local") == ["one-db", "two"]
    assert names("driver=other") == []
    assert "invalid filter 'nosuch'" in refused(engine, "volume", "ls", "--filter", "nosuch=1")


def test_remove(engine: RunningEngine) -> None:
    id = ok(engine, "create", "-v", "used:/x", "busybox")
    assert f"remove used: volume is in use - [{id}]" in refused(engine, "volume", "rm", "used")
    assert "volume is in use" in refused(engine, "volume", "rm", "-f", "used")
    assert "get nosuch: no such volume" in refused(engine, "volume", "rm", "nosuch")
    assert ok(engine, "volume", "rm", "-f", "nosuch") == "nosuch"
    ok(engine, "rm", id)
    ok(engine, "volume", "rm", "used")


def test_prune(engine: RunningEngine) -> None:
    for name, label in (("named", "keep"), ("other", "x")):
        ok(engine, "volume", "create", "--label", label, name)
    sh(engine, "-v", "named:/v", "head -c 5000 /dev/zero > /v/file; ln /v/file /v/again")
    anonymous = ok(engine, "volume", "create")
    assert anonymous in ok(engine, "volume", "prune", "-f")
    assert "named" in ok(engine, "volume", "ls", "-q")
    kept = ok(engine, "volume", "prune", "-f", "--all", "--filter", "label!=keep")
    assert "other" in kept and "named" not in kept
    assert "Total reclaimed space: 5kB" in ok(engine, "volume", "prune", "-f", "--all")


def test_volume_update_needs_a_swarm(engine: RunningEngine) -> None:
    ok(engine, "volume", "create", "plain")
    status, message = engine.message("PUT", "/volumes/plain?version=1", {"Spec": {}})
    assert (status, message) == (503, "volume update only valid for cluster volumes, but swarm is unavailable")


# --- volumes with something mounted on them


def mounted(engine: RunningEngine) -> bool:
    return str(engine.data_root / "volumes") in Path("/proc/self/mountinfo").read_text()


def test_a_tmpfs_volume_lives_as_long_as_its_containers(engine: RunningEngine) -> None:
    options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=1000"]
    ok(engine, "volume", "create", *options, "memory")
    assert inspect(engine, "memory")["Options"] == {"device": "tmpfs", "o": "size=1m,uid=1000", "type": "tmpfs"}
    for name in ("first", "second"):
        ok(engine, "run", "-d", "--name", name, "-v", "memory:/m", "busybox", "sleep", "60")
    ok(engine, "exec", "first", "sh", "-c", "echo shared > /m/file")
    assert ok(engine, "exec", "second", "cat", "/m/file") == "shared"
    assert "tmpfs" in ok(engine, "exec", "second", "df", "-k", "/m") and mounted(engine)
    ok(engine, "kill", "first")
    assert mounted(engine)
    ok(engine, "rm", "-f", "first", "second")
    assert not mounted(engine)


def test_a_bind_volume(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host\n")
    ok(engine, "volume", "create", "-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind,ro", "bound")
    assert sh(engine, "-v", "bound:/b", "cat /b/file; touch /b/x 2>&1; true") == (
        "of the host\ntouch: /b/x: Read-only file system"
    )


def test_a_volume_that_cannot_be_mounted(engine: RunningEngine) -> None:
    ok(engine, "volume", "create", "-o", "type=ext4", "-o", "device=/no/such/disk", "-o", "o=noatime", "broken")
    message = refused(engine, "run", "-v", "broken:/b", "busybox", "true")
    path = inspect(engine, "broken")["Mountpoint"]
    assert f"error while mounting volume '{path}': failed to mount local volume: mount /no/such/disk:{path}" in message
    assert "no such file or directory" in message


def test_mount_makes_a_volume_with_options(engine: RunningEngine) -> None:
    options = "volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=2m,volume-label=x=y"
    assert "2048" in sh(engine, "--mount", f"type=volume,src=made,dst=/m,{options}", "df -k /m")
    shown = inspect(engine, "made")
    assert (shown["Labels"], shown["Options"]["o"]) == ({"x": "y"}, "size=2m")


# --- copy-up


LOOK = "cd %s; stat -c '%%n %%u:%%g %%a %%h %%F' . * sub/* | sort; stat -c %%Y kept; readlink link"


def test_the_images_content_fills_an_empty_volume(engine: RunningEngine) -> None:
    in_image = sh(engine, "-v", "data-all:/elsewhere", LOOK % "/data", image="data")
    assert "removed" not in in_image and "sub/deep 0:0 4755" in in_image and ". 1000:2000 750" in in_image
    assert sh(engine, "-v", "data-all:/data", "cat /data/new /data/sub/deep", image="data") == "newdeep"
    assert sh(engine, "-v", "data-all:/look", LOOK % "/look") == in_image
    # The second time it is not empty, so nothing is copied.
    assert sh(engine, "-v", "data-all:/etc", "ls /etc | head -1", image="data") == "again"


def test_an_empty_directory_gives_its_owner_and_mode(engine: RunningEngine) -> None:
    assert sh(engine, "-v", "tidy:/empty", "stat -c '%u:%g %a' /empty", image="data") == "5:6 1777"
    assert sh(engine, "-v", "tidy:/new/place", "stat -c '%u:%g %a' /new/place", image="data") == "5:6 1777"


def test_copy_up_by_a_link_and_nocopy(engine: RunningEngine) -> None:
    assert sh(engine, "-v", "linked:/by-link", "ls /data/sub", image="data") == "deep"
    assert sh(engine, "-v", "bare:/data:nocopy", "ls -A /data", image="data") == ""
    assert sh(engine, "--mount", "type=volume,src=bare2,dst=/data,volume-nocopy", "ls -A /data", image="data") == ""


def test_an_image_volume_is_anonymous_and_goes_with_rm(engine: RunningEngine) -> None:
    id = ok(engine, "create", "data", "cat", "/data/new")
    assert ok(engine, "start", "-a", id) == "new"
    (mount,) = json.loads(ok(engine, "inspect", id))[0]["Mounts"]
    assert re.fullmatch("[0-9a-f]{64}", mount["Name"])
    assert mount == {
        "Type": "volume",
        "Name": mount["Name"],
        "Source": str(engine.data_root / "volumes" / mount["Name"] / "_data"),
        "Destination": "/data",
        "Driver": "local",
        "Mode": "",
        "RW": True,
        "Propagation": "",
    }
    ok(engine, "rm", id)
    assert ok(engine, "volume", "ls", "-q") == mount["Name"]
    ok(engine, "volume", "rm", mount["Name"])
    sh(engine, "true", image="data")  # --rm takes its volume with it
    assert ok(engine, "volume", "ls", "-q") == ""


def test_a_volume_over_a_file(engine: RunningEngine) -> None:
    message = refused(engine, "run", "--rm", "-v", "/etc/passwd", "busybox", "true")
    assert "cannot mount volume over existing file, file exists /etc/passwd" in message


# --- subpaths


def test_volume_subpath(engine: RunningEngine) -> None:
    script = "mkdir -p /v/sub/deep /v/bin; echo hello > /v/sub/file; ln -s sub/deep /v/good; ln -s / /v/root; "
    sh(engine, "-v", "tree:/v", script + "ln -s ../../../.. /v/sub/up; ln -s /v/sub /v/absolute")

    def mount(subpath: str, target: str = "/m", more: str = "") -> list[str]:
        return ["--mount", f"type=volume,src=tree,dst={target},volume-subpath={subpath}{more}"]

    assert sh(engine, *mount("sub"), "ls /m; touch /m/new") == "deep\nfile\nup"
    assert sh(engine, *mount("sub/file"), "cat /m") == "hello"
    assert sh(engine, *mount("good"), "touch /m/inside && echo yes") == "yes"
    assert "Read-only" in sh(engine, *mount("sub", more=",ro"), "touch /m/x 2>&1; true")
    assert sh(engine, *mount("bin", "/bin"), "test -e /bin/busybox && echo copied") == "copied"
    message = refused(engine, "run", "--rm", *mount("../../etc"), "busybox", "true")
    assert "subpath must be a relative path within the volume" in message
    message = refused(engine, "run", "--rm", *mount("nosuch"), "busybox", "true")
    assert f"cannot access path {engine.data_root}/volumes/tree/_data/nosuch: no such file or directory" in message
    for escape in ("root", "sub/up", "root/etc", "absolute"):
        message = refused(engine, "run", "--rm", *mount(escape), "busybox", "true")
        assert "path concatenation escapes the base directory" in message


# --- volumes-from, precedence, duplicates


def test_volumes_from(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    ok(engine, "create", "--name", "giver", "-v", f"{tmp_path}:/host:ro", "-v", "shared:/s", "-v", "/anon", "data")
    script = "cat /host/file /data/new; echo x > /s/x; echo y > /anon/y; touch /host/z 2>&1"
    assert "Read-only" in ok(engine, "run", "--rm", "--volumes-from", "giver", "busybox", "sh", "-c", script + "; true")
    out = sh(engine, "--volumes-from", "giver:ro", "cat /s/x /anon/y; touch /s/no 2>&1; true")
    assert out == "x\ny\ntouch: /s/no: Read-only file system"
    # One's own mount at the same place goes before.
    assert sh(engine, "--volumes-from", "giver", "-v", "mine:/s", "ls /s") == ""
    assert "invalid mode: rshared" in refused(engine, "create", "--volumes-from", "giver:rshared", "busybox")
    assert "No such container: nobody" in refused(engine, "create", "--volumes-from", "nobody", "busybox")
    ok(engine, "create", "--name", "taker", "--volumes-from", "giver", "busybox")
    ok(engine, "rm", "-v", "giver")
    assert len(ok(engine, "volume", "ls", "-q").split()) == 4  # the taker has them still
    ok(engine, "rm", "-v", "taker")
    assert sorted(ok(engine, "volume", "ls", "-q").split()) == ["mine", "shared"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["-v", "/tmp:/x", "-v", "/etc:/x/"], "Duplicate mount point: /x"),
        (["-v", "/tmp:/x", "--tmpfs", "/x"], "Duplicate mount point: /x"),
        (["-v", "/tmp:/x", "--mount", "type=tmpfs,dst=/x"], "Duplicate mount point: /x"),
        (["-v", "/tmp:/"], "invalid specification: destination can't be '/'"),
        (["-v", "/tmp:/x:bogus"], "invalid mode: bogus"),
        (["-v", "/tmp:/x:ro,rw"], "invalid mode: ro,rw"),
        (["-v", "vol1:/x:rshared"], "invalid volume specification: 'vol1:/x:rshared'"),
        (["-v", "up/per:/x"], "includes invalid characters for a local volume name"),
        (["--mount", "type=bind,src=/no/such,dst=/x"], "bind source path does not exist: /no/such"),
        (["--mount", "type=volume,dst=/x,readonly"], "must not set ReadOnly mode when using anonymous volumes"),
        (["--mount", "type=volume,dst=/x,volume-subpath=a"], "must not set Subpath when using anonymous volumes"),
        (["--mount", "type=npipe,src=a,dst=/x"], "--mount type=npipe is not supported"),
        (["--mount", "type=cluster,src=a,dst=/x"], "--mount type=cluster is not supported"),
        (["--mount", "type=image,src=nosuch,dst=/x"], "No such image"),
        (["--mount", "type=tmpfs,src=/a,dst=/x"], 'invalid mount config for type "tmpfs": field Source must not be'),
        (["--volume-driver", "nosuch", "-v", "vol1:/x"], 'plugin "nosuch" not found'),
        (["--tmpfs", "/x:bogus"], 'invalid tmpfs option ["bogus"]'),
    ],
)
def test_refused_mounts(engine: RunningEngine, options: list[str], words: str) -> None:
    assert words in refused(engine, "create", "--pull", "never", *options, "busybox", "true")
    assert ok(engine, "ps", "-aq") == ""


# --- bind, tmpfs, image


def test_binds_of_files_sockets_and_missing_directories(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    missing = tmp_path / "made/by/docker"
    binds = ["-v", f"{tmp_path}/file:/deep/in/file:cached", "-v", f"{missing}:/m:z", "-v", f"{engine.socket}:/sock"]
    assert sh(engine, *binds, "cat /deep/in/file; test -S /sock && echo socket") == "content\nsocket"
    assert missing.is_dir()
    made = tmp_path / "made/by/mount"
    mount = {"Type": "bind", "Source": str(made), "Target": "/m", "BindOptions": {"CreateMountpoint": True}}
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}}
    id = engine.post("/containers/create", body, 201)["Id"]
    engine.post(f"/containers/{id}/start")
    assert made.is_dir()


@pytest.fixture
def host_mount(tmp_path: Path) -> Iterator[Path]:
    """A shared mount with another below it; both are gone afterwards."""
    top = tmp_path / "top"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(top)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(top)], check=True)
        (top / "inner").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(top / "inner")], check=True)
        (top / "inner/file").write_text("inner\n")
        yield top
    finally:
        subprocess.run(["umount", "-R", "-l", str(top)], check=True)


def test_bind_recursion(engine: RunningEngine, host_mount: Path) -> None:
    def run(more: str) -> str:
        mount = f"type=bind,src={host_mount},dst=/m{more}"
        return sh(engine, "--mount", mount, "cat /m/inner/file 2>&1; touch /m/inner/x 2>&1; touch /m/y 2>&1; true")

    assert run("") == "inner"
    assert "No such file" in run(",bind-recursive=disabled")
    assert run(",readonly,bind-recursive=writable").count("Read-only") == 1
    assert run(",readonly").count("Read-only") == 2
    assert run(",readonly,bind-recursive=readonly,bind-propagation=rprivate").count("Read-only") == 2
    assert sh(engine, "-v", f"{host_mount}:/m:ro", "touch /m/inner/x 2>&1; true").count("Read-only") == 1


def test_bind_propagation(engine: RunningEngine, host_mount: Path, tmp_path: Path) -> None:
    (host_mount / "later").mkdir()
    (host_mount / "from-inside").mkdir()
    for name in ("private", "rprivate", "shared", "rshared", "slave", "rslave"):
        options = ["--privileged", "-v", f"{host_mount}:/m:{name}"]
        ok(engine, "run", "-d", "--name", name, *options, "busybox", "sleep", "60")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(host_mount / "later")], check=True)
    (host_mount / "later/seen").touch()
    seen = {}
    for name in ("private", "rprivate", "shared", "rshared", "slave", "rslave"):
        seen[name] = ok(engine, "exec", name, "ls", "/m/later")
        ok(engine, "exec", name, "mount", "-t", "tmpfs", name, "/m/from-inside")
        points = Path("/proc/self/mountinfo").read_text()
        assert (f"{host_mount}/from-inside" in points) == name.endswith("shared"), name
        if name.endswith("shared"):
            ok(engine, "exec", name, "umount", "/m/from-inside")
    assert seen == {
        "private": "",
        "rprivate": "",
        "shared": "seen",
        "rshared": "seen",
        "slave": "seen",
        "rslave": "seen",
    }
    assert ok(engine, "inspect", "-f", "{{(index .Mounts 0).Propagation}}", "rslave") == "rslave"
    subprocess.run(["mount", "--make-private", str(host_mount)], check=True)
    message = refused(engine, "run", "--rm", "-v", f"{host_mount}:/m:rshared", "busybox", "true")
    assert f"path {host_mount} is mounted on {host_mount} but it is not a shared mount" in message
    (host_mount / "dir").mkdir()
    message = refused(engine, "run", "--rm", "-v", f"{host_mount}/dir:/m:slave", "busybox", "true")
    assert f"path {host_mount}/dir is mounted on {host_mount} but it is not a shared or slave mount" in message


def test_tmpfs(engine: RunningEngine) -> None:
    out = sh(engine, "--tmpfs", "/t:size=2m,mode=1750,uid=7,exec", "stat -c '%a %u' /t; grep ' /t ' /proc/mounts")
    assert out.splitlines()[0] == "1750 7"
    assert "size=2048k" in out and "noexec" not in out and "nosuid,nodev" in out
    mount = "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700,readonly"
    out = sh(engine, "--mount", mount, "stat -c %a /t; grep ' /t ' /proc/mounts")
    assert out.startswith("700\ntmpfs /t tmpfs ro,nosuid,nodev,noexec,") and "size=1024k" in out
    # What is nearer to the root is mounted first, whatever its kind.
    assert (
        sh(engine, "--tmpfs", "/t", "-v", "nested:/t/deep", "--tmpfs", "/t/deep/er", "grep -c ' /t' /proc/mounts")
        == "3"
    )


def test_image_mounts(engine: RunningEngine) -> None:
    mount = "type=image,src=one,dst=/i"
    assert sh(engine, "--mount", mount, "cat /i/share/file; touch /i/x 2>&1; true") == (
        "from the image\ntouch: /i/x: Read-only file system"
    )
    two = "type=image,src=data,dst=/i"
    assert sh(engine, "--mount", two, "cat /i/data/new; ls /i/data; touch /i/x 2>&1; true").endswith(
        "Read-only file system"
    )
    for image, subpath, content in (("one", "share", "file"), ("data", "data/sub", "deep"), ("data", "by-link", "")):
        mount = f"type=image,src={image},dst=/i,image-subpath={subpath}"
        if content:
            assert sh(engine, "--mount", mount, "ls /i") == content
        else:
            assert "escapes the base directory" in refused(engine, "run", "--rm", "--mount", mount, "busybox", "true")
    mount = "type=image,src=data,dst=/one-file,image-subpath=data/new"
    assert sh(engine, "--mount", mount, "cat /one-file; grep -c overlay /proc/mounts") == "new2"
    id = ok(engine, "create", "--mount", "type=image,src=one,dst=/i", "busybox", "true")
    assert "is using its referenced image" in refused(engine, "rmi", "one")
    (shown,) = json.loads(ok(engine, "inspect", id))[0]["Mounts"]
    assert (shown["Type"], shown["Name"], shown["RW"]) == ("image", "one", False)


def test_targets_through_the_images_links(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mounted\n")
    before = sorted(os.listdir("/"))
    assert sh(engine, "-v", f"{tmp_path}:/by-link/x", "cat /data/sub/x/file", image="data") == "mounted"
    for target, words in (
        ("/to-root", "it leads to the root itself"),
        ("/to-proc", "cannot be mounted because it is inside /proc"),
        ("/proc/sys", "cannot be mounted because it is inside /proc"),
        ("/proc", "can be covered by a procfs only"),
    ):
        for option in (["-v", f"{tmp_path}:{target}"], ["--tmpfs", target]):
            assert words in refused(engine, "run", "--rm", *option, "data", "true"), (target, option)
    assert sh(engine, "-v", f"{tmp_path}/file:/proc/uptime", "cat /proc/uptime") == "mounted"
    assert sh(engine, "-v", f"{tmp_path}/file:/dev/mine", "cat /dev/mine") == "mounted"
    assert "processor" in sh(engine, "-v", "/proc:/proc", "cat /proc/cpuinfo")
    assert sorted(os.listdir("/")) == before


def test_copying_from_what_a_stopped_container_has_mounted(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "source/below").mkdir(parents=True)
    (tmp_path / "source/below/file").write_text("deep\n")
    options = ["-o", "type=none", "-o", f"device={tmp_path}/source", "-o", "o=bind"]
    ok(engine, "volume", "create", *options, "bound")
    mounts = ["--mount", "type=volume,src=bound,dst=/m,volume-subpath=below", "--mount", "type=image,src=one,dst=/i"]
    ok(engine, "create", "--name", "giver", *mounts, "busybox", "true")
    ok(engine, "create", "--name", "taker", "--volumes-from", "giver", "busybox", "true")
    for name in ("giver", "taker"):
        for inside, content in (("/m/file", "deep\n"), ("/i/share/file", "from the image\n")):
            ok(engine, "cp", f"{name}:{inside}", str(tmp_path / "copied"))
            assert (tmp_path / "copied").read_text() == content
    assert not mounted(engine)


def test_mounts_are_shown_as_docker_shows_them(engine: RunningEngine, tmp_path: Path) -> None:
    options = ["-v", f"{tmp_path}:/b:ro,rslave", "-v", "vol-a:/v", "--mount", "type=volume,src=vol-b,dst=/w,readonly"]
    options += ["--mount", "type=tmpfs,dst=/t", "--tmpfs", "/hidden", "--mount", f"type=bind,src={tmp_path},dst=/c"]
    id = ok(engine, "create", *options, "busybox", "true")
    shown = {mount["Destination"]: mount for mount in json.loads(ok(engine, "inspect", id))[0]["Mounts"]}
    source = str(engine.data_root / "volumes")
    volume = {"Type": "volume", "Driver": "local", "Propagation": "", "Mode": "z"}
    assert shown == {
        "/b": {
            "Type": "bind",
            "Source": str(tmp_path),
            "Destination": "/b",
            "Mode": "ro,rslave",
            "RW": False,
            "Propagation": "rslave",
        },
        "/c": {
            "Type": "bind",
            "Source": str(tmp_path),
            "Destination": "/c",
            "Mode": "",
            "RW": True,
            "Propagation": "rprivate",
        },
        "/t": {"Type": "tmpfs", "Source": "", "Destination": "/t", "Mode": "", "RW": True, "Propagation": ""},
        "/v": {
            **volume,
            "Name": "vol-a",
            "Source": f"{source}/vol-a/_data",
            "Destination": "/v",
            "Mode": "z",
            "RW": True,
        },
        "/w": {
            **volume,
            "Name": "vol-b",
            "Source": f"{source}/vol-b/_data",
            "Destination": "/w",
            "Mode": "z",
            "RW": False,
        },
    }
    host = json.loads(ok(engine, "inspect", id))[0]["HostConfig"]
    assert sorted(host["Binds"]) == [f"{tmp_path}:/b:ro,rslave", "vol-a:/v"]  # the CLI sends them in any order
    assert [mount["Target"] for mount in host["Mounts"]] == ["/w", "/t", "/c"]
    assert ok(engine, "ps", "-a", "--format", "{{.Mounts}}", "--no-trunc").count("vol-") == 2

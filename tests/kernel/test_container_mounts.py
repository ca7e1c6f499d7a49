"""What a container sees of filesystems, and what the host does not see of the container's."""

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launched import Lab, lab, mounts_below, shared_lab

from runtime.errors import ProcessFault
from runtime.linux import mounts
from tests.fakes.bundles import make_overlay, make_spec

__all__ = ["lab", "shared_lab"]


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "destination": destination, "options": ["rbind", *options]}


def with_mounts(*mounts: dict[str, Any], **process: Any) -> dict[str, Any]:
    spec = make_spec(**process)
    spec["mounts"] += mounts
    return spec


def mounted(out: str, point: str) -> list[str]:
    """Types and options of what is mounted at `point`, from the output of mount."""
    return [line.split(" type ")[1] for line in out.splitlines() if line.split(" on ")[1].split(" type ")[0] == point]


def test_the_standard_mounts(lab: Lab) -> None:
    out = lab.run(make_spec("mount")).out
    assert mounted(out, "/")[0].startswith("overlay (rw")
    assert mounted(out, "/proc")[0].startswith("proc (rw,nosuid,nodev,noexec")
    assert mounted(out, "/sys")[0].startswith("sysfs (ro,nosuid,nodev,noexec")
    assert mounted(out, "/dev")[0].startswith("tmpfs (rw,nosuid,size=65536k,mode=755")
    assert "ptmxmode=666" in mounted(out, "/dev/pts")[0]
    assert "size=65536k" in mounted(out, "/dev/shm")[0]
    assert mounted(out, "/dev/mqueue")[0].startswith("mqueue")


def test_the_hosts_filesystems_are_gone(lab: Lab) -> None:
    out = lab.run(make_spec("cat", "/proc/1/mountinfo")).out
    assert all("/dev/vda" not in line and " /etc" not in line for line in out.splitlines())
    assert str(lab.directory) not in "".join(line.split(" - ")[0] for line in out.splitlines())


def test_devices_and_links(lab: Lab) -> None:
    script = (
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; "
        "for link in fd stdin ptmx; do readlink $link; done"
    )
    assert lab.sh(script).out.splitlines() == [
        "null 1:3 666",
        "zero 1:5 666",
        "full 1:7 666",
        "random 1:8 666",
        "urandom 1:9 666",
        "tty 5:0 666",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "pts/ptmx",
    ]


def test_a_device_of_its_own(lab: Lab) -> None:
    spec = make_spec()
    spec["linux"]["devices"] = [
        {"path": "/dev/mine/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 1, "gid": 2}
    ]
    assert lab.sh("stat -c '%t:%T %a %u %g' /dev/mine/zero; head -c 2 /dev/mine/zero | wc -c", spec).out.split() == [
        "1:5",
        "640",
        "1",
        "2",
        "2",
    ]


def test_masked_and_readonly_paths(lab: Lab) -> None:
    spec = make_spec()
    (lab.rootfs / "etc/secret").write_text("secret")
    (lab.rootfs / "etc/vault").mkdir()
    (lab.rootfs / "etc/vault/gold").write_text("gold")
    spec["linux"]["maskedPaths"] += ["/etc/secret", "/etc/vault", "/not/there"]
    spec["linux"]["readonlyPaths"] += ["/etc/vault", "/tmp", "/not/there"]
    result = lab.sh(
        "cat /etc/secret /proc/keys; ls -A /etc/vault; "
        "touch /tmp/x; chmod 0 /etc/secret; echo 1 > /proc/sys/kernel/domainname",
        spec,
    )
    assert result.out == ""
    assert result.err.count("Read-only file system") == 3, result.err
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_masking_with_a_forged_null_device(lab: Lab) -> None:
    # CVE-2025-31133: the image's /dev/null is a link to something of its own.
    spec = make_spec("true")
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    (lab.rootfs / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    try:
        with pytest.raises(ProcessFault, match=r"/dev/null in the container is not"):
            lab.run(spec)
    finally:
        (lab.rootfs / "dev/null").unlink()


def test_readonly_root(lab: Lab) -> None:
    spec = with_mounts({"type": "tmpfs", "destination": "/tmp", "source": "tmpfs", "options": ["size=1m"]})
    spec["root"]["readonly"] = True
    result = lab.sh("touch /x; touch /tmp/x && stat -c %a /tmp", spec)
    assert "Read-only file system" in result.err
    # A tmpfs takes the mode of what it covers.
    assert result.out == "1777\n"


def test_writes_go_to_the_upper_directory(lab: Lab) -> None:
    spec = make_spec("sh", "-c", "echo new > /etc/new")
    name, bundle, overlay = lab.bundle(spec)
    lab.adopt(name, bundle, lab.client.run(name, bundle, rootfs=overlay))
    assert lab.exit_of(name)["code"] == 0
    assert (bundle / "upper/etc/new").read_text() == "new\n"
    assert not (lab.rootfs / "etc/new").exists()


def test_many_layers(lab: Lab, tmp_path: Path) -> None:
    # More than mount(2)'s page of options, or a pipe's worth of one fsconfig string, could name.
    layers = []
    for number in range(120):
        layer = tmp_path / f"a-layer-with-quite-a-long-name-{number:03}"
        layer.mkdir()
        (layer / "topmost").write_text(f"{number}\n")
        layers.append(layer)
    spec = make_spec("cat", "/topmost")
    name, bundle, _ = lab.bundle(spec)
    overlay = make_overlay(tmp_path / "top", *layers, lab.rootfs)
    reading, writing = os.pipe()
    lab.adopt(name, bundle, lab.client.run(name, bundle, rootfs=overlay, fds={"stdout": writing}))
    os.close(writing)
    assert os.read(reading, 100) == b"0\n"
    os.close(reading)
    assert lab.exit_of(name)["code"] == 0


def test_bind_mounts(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    result = lab.sh(
        "cat /mnt/new/place/file /a-file; echo bye > /mnt/new/place/other; touch /ro/x",
        with_mounts(bind(tmp_path, "/mnt/new/place"), bind(tmp_path / "file", "/a-file"), bind(tmp_path, "/ro", "ro")),
    )
    assert result.out == "hellohello"
    assert "Read-only file system" in result.err
    assert (tmp_path / "other").read_text() == "bye\n"


def test_recursive_readonly(lab: Lab, tmp_path: Path) -> None:
    inner = {"type": "tmpfs", "destination": "/mnt/inner", "source": "tmpfs", "options": []}
    spec = with_mounts(inner)
    spec["linux"]["readonlyPaths"] = ["/mnt"]
    assert "Read-only" in lab.sh("touch /mnt/inner/x", spec).err


def test_mounts_made_inside_stay_inside(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "point").mkdir()
    everything = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
    spec = with_mounts(
        bind(tmp_path, "/shared"),
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), everything),
    )
    del spec["linux"]["seccomp"]
    result = lab.sh("mount -t tmpfs none /shared/point && touch /shared/point/x && ls /shared/point", spec)
    assert result == (0, "x\n", "")
    assert list((tmp_path / "point").iterdir()) == []
    assert mounts_below(tmp_path) == []


def test_image_links_do_not_lead_out(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "mark").touch()
    (lab.rootfs / "escape").symlink_to(outside)
    (lab.rootfs / "climb").symlink_to("../../../../../../../../.." + str(outside))
    (lab.rootfs / "dangling").symlink_to("elsewhere/deep")
    spec = with_mounts(bind(source, "/escape/in"), bind(source, "/climb/in"), bind(source, "/dangling"))
    result = lab.sh(f"ls /escape/in /climb/in /elsewhere/deep; ls -d {outside}/in", spec)
    assert result.out.count("mark") == 3, result
    assert list(outside.iterdir()) == []


def test_missing_bind_source(lab: Lab) -> None:
    with pytest.raises(ProcessFault) as caught:
        lab.run(with_mounts(bind(Path("/no/such"), "/mnt"), args=["true"]))
    fault = caught.value
    assert (fault.phase, fault.errno) == ("mounts", errno.ENOENT)
    assert str(fault) == 'error mounting "/no/such" to rootfs at "/mnt": no such file or directory'


def test_directory_onto_a_file(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ProcessFault, match="Are you trying to mount a directory onto a file") as caught:
        lab.run(with_mounts(bind(tmp_path, "/etc/passwd"), args=["true"]))
    assert caught.value.errno == errno.ENOTDIR


def test_a_bad_option_is_named(lab: Lab) -> None:
    mount = {"type": "tmpfs", "destination": "/mnt", "source": "tmpfs", "options": ["colour=blue"]}
    with pytest.raises(ProcessFault, match="colour"):
        lab.run(with_mounts(mount, args=["true"]))


def test_cgroups_are_readonly_and_its_own(lab: Lab) -> None:
    result = lab.sh(
        "cat /proc/self/cgroup; for f in /sys/fs/cgroup/*/cgroup.procs; do cat $f; done; mkdir /sys/fs/cgroup/pids/x"
    )
    assert all(line.endswith(":/") for line in result.out.splitlines() if ":" in line)
    assert "1" in result.out.split()
    assert "Read-only file system" in result.err


# Races: another container, or the host, changes the place a mount comes from or goes to while it is made.


@contextlib.contextmanager
def swapping(path: Path, link_target: str) -> Iterator[None]:
    """While inside, the directory `path` is exchanged for a link to `link_target` and back, without a pause."""
    aside = path.with_name(f"{path.name}-aside")
    aside.symlink_to(link_target)
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                exchange(aside, path)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for place in (aside, path):
            if place.is_symlink():
                place.unlink()


def exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE."""
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    renameat2(-100, os.fsencode(one), -100, os.fsencode(other), ctypes.c_uint(2))


def test_a_subpath_never_leads_out_of_its_volume(lab: Lab, tmp_path: Path) -> None:
    # As CVE-2021-30465 and CVE-2023-0778: the part to be mounted becomes a link to the host's files.
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/which").write_text("host\n")
    (tmp_path / "volume/sub/dir").mkdir(parents=True)
    (tmp_path / "volume/sub/dir/which").write_text("volume\n")
    (tmp_path / "volume/out").symlink_to("../secret")
    out = bind(tmp_path / "volume", "/m", "X-mount.subdir=out")
    with pytest.raises(ProcessFault, match="path concatenation escapes the base directory"):
        lab.sh("true", with_mounts(out))
    seen = set()
    mount = bind(tmp_path / "volume", "/m", "X-mount.subdir=sub/dir")
    with swapping(tmp_path / "volume/sub/dir", str(tmp_path / "secret")):
        for _ in range(60):
            try:
                seen.add(lab.sh("cat /m/which", with_mounts(mount)).out)
            except ProcessFault:
                seen.add("refused")
    assert seen <= {"volume\n", "refused"}
    assert len(seen) == 2, "the race was not run"


def test_a_target_never_leads_out_of_the_root(lab: Lab, tmp_path: Path) -> None:
    # As CVE-2021-30465 (a mount on the host) and CVE-2024-45310 (directories made on the host).
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "shared/x").mkdir(parents=True)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("mounted\n")
    before = Path("/proc/self/mountinfo").read_text()
    seen = set()
    spec = with_mounts(bind(tmp_path / "shared", "/vol"), bind(tmp_path / "source", "/vol/x/made/here"))
    with swapping(tmp_path / "shared/x", "../" * 30 + str(outside)[1:]):
        for _ in range(60):
            try:
                seen.add(lab.sh("cat /vol/x/made/here/file 2>/dev/null; true", spec).out)
            except ProcessFault:
                seen.add("refused")
    assert list(outside.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before
    assert seen <= {"mounted\n", "", "refused"}


def test_nothing_hides_proc(lab: Lab, tmp_path: Path) -> None:
    # As CVE-2019-16884 and CVE-2023-27561: links of the image lead a mount onto /proc.
    (lab.rootfs / "to-proc").symlink_to("/proc")
    (lab.rootfs / "to-self").symlink_to("proc/self/attr")
    (lab.rootfs / "to-root").symlink_to("..")
    try:
        for destination, words in (
            ("/to-proc", "can be covered by a procfs only"),
            ("/to-proc/sys", "inside /proc"),
            ("/to-self", "inside /proc"),
            ("/to-root", "the root itself"),
        ):
            tmpfs = {"type": "tmpfs", "destination": destination, "source": "tmpfs", "options": []}
            for mount in (tmpfs, bind(tmp_path, destination)):
                with pytest.raises(ProcessFault, match=words):
                    lab.sh("true", with_mounts(mount))
    finally:
        for name in ("to-proc", "to-self", "to-root"):
            (lab.rootfs / name).unlink()


@pytest.mark.parametrize("name, elsewhere", [("proc", "/etc"), ("sys", "tmp"), ("dev", "proc")])
def test_trees_of_the_kernel_go_to_ordinary_directories(lab: Lab, name: str, elsewhere: str) -> None:
    # CVE-2019-19921: what is masked below /proc would not be what was mounted.
    kept = lab.rootfs / f"{name}-kept"
    (lab.rootfs / name).rename(kept)
    (lab.rootfs / name).symlink_to(elsewhere)
    try:
        with pytest.raises(ProcessFault, match=r"an ordinary directory|covered by a procfs only"):
            lab.run(make_spec("true"))
    finally:
        (lab.rootfs / name).unlink()
        kept.rename(lab.rootfs / name)


def test_a_source_the_host_has_mounted_read_only_stays_so(lab: Lab, tmp_path: Path) -> None:
    mounts.mount("tmpfs", str(tmp_path), "tmpfs", mounts.MS_RDONLY)
    try:
        assert "Read-only file system" in lab.sh("touch /m/x", with_mounts(bind(tmp_path, "/m"))).err
    finally:
        mounts.umount(str(tmp_path), mounts.MNT_DETACH)


def test_part_of_an_overlay(lab: Lab, tmp_path: Path) -> None:
    for number, name in enumerate(("low", "top")):
        (tmp_path / name / "dir").mkdir(parents=True)
        (tmp_path / name / "dir" / name).write_text(f"{number}\n")
    layers = [f"lowerdir+={tmp_path}/{name}" for name in ("top", "low")]
    for subpath, destination, script in (("dir", "/d", "cat /d/low /d/top"), ("dir/top", "/f", "cat /f; echo; cat /f")):
        options = ["ro", *layers, f"X-mount.subdir={subpath}"]
        overlay = {"type": "overlay", "destination": destination, "source": "overlay", "options": options}
        assert lab.sh(script, with_mounts(overlay)).out.split()[-1] == "1"
    points = lab.sh("grep -c overlay /proc/mounts", with_mounts(overlay)).out
    assert points == "2\n"  # the root and the part; the whole is not left behind

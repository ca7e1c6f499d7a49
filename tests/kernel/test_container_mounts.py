"""What a container sees of filesystems, and what the host does not see of the container's."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from launched import Lab, lab, mounts_below, shared_lab

from runtime.errors import ProcessFault
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

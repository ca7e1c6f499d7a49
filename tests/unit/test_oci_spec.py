"""What `validate` accepts, and which field it names for what it does not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import InvalidParameter, NotSupported
from runtime.oci import defaults
from runtime.oci.sysctl import sysctl_namespace
from runtime.oci.validate import validate

GOOD: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0, "additionalGids": [1], "umask": 0o22},
        "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": []},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**64 - 1}],
        "oomScoreAdj": -1000,
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
    },
    "mounts": [
        *defaults.default_mounts(),
        {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]},
    ],
    "hooks": {"poststop": [{"path": "/bin/true", "timeout": 5}]},
    "annotations": {"a": "b"},
    "linux": {
        "namespaces": [
            {"type": "mount"},
            {"type": "uts"},
            {"type": "network", "path": "/run/netns/x"},
            {"type": "ipc"},
        ],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 0o600}],
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1", "fs.mqueue.msg_max": "1"},
        "maskedPaths": list(defaults.MASKED_PATHS),
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]},
        "rootfsPropagation": "rslave",
        "resources": {},
    },
    "com.example.unknown": [1, 2, 3],
}


def test_a_good_one_is_accepted() -> None:
    validate(GOOD)


def set_in(*path: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last, value = path

    def change(spec: dict[str, Any]) -> None:
        target: Any = spec
        for key in keys:
            target = target[key]
        target[last] = value

    return change


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        target: Any = spec
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("ociVersion", set_in("ociVersion", "2.0.0")),
        ("ociVersion", without("ociVersion")),
        ("root", without("root")),
        ("root.path", set_in("root", "path", "")),
        ("root.readonly", set_in("root", "readonly", 1)),
        ("process", without("process")),
        ("process.args", set_in("process", "args", [])),
        ("process.args[1]", set_in("process", "args", ["a", 1])),
        ("process.args[0]", set_in("process", "args", ["a\0b"])),
        ("process.cwd", set_in("process", "cwd", "tmp")),
        ("process.cwd", without("process", "cwd")),
        ("process.user.uid", set_in("process", "user", "uid", -1)),
        ("process.user.uid", set_in("process", "user", "uid", True)),
        ("process.user.gid", without("process", "user", "gid")),
        ("process.user.umask", set_in("process", "user", "umask", 0o1000)),
        ("process.capabilities.bounding[0]", set_in("process", "capabilities", "bounding", ["chown"])),
        ("process.rlimits[0].type", set_in("process", "rlimits", 0, "type", "NOFILE")),
        ("process.rlimits[0].soft", set_in("process", "rlimits", 0, {"type": "RLIMIT_CPU", "soft": 2, "hard": 1})),
        ("process.rlimits[1]", set_in("process", "rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2)),
        ("process.oomScoreAdj", set_in("process", "oomScoreAdj", 1001)),
        ("process.consoleSize.width", set_in("process", "consoleSize", {"height": 1, "width": 70000})),
        ("hostname", set_in("hostname", 5)),
        ("hostname", set_in("linux", "namespaces", [{"type": "mount"}])),
        ("mounts[0].destination", set_in("mounts", 0, {"type": "tmpfs"})),
        ("mounts[0].destination", set_in("mounts", 0, {"type": "tmpfs", "destination": "/a/.."})),
        ("mounts[0].source", set_in("mounts", 0, {"type": "bind", "destination": "/a"})),
        ("mounts[0].type", set_in("mounts", 0, {"destination": "/a"})),
        ("mounts[0].options[0]", set_in("mounts", 0, "options", [""])),
        ("hooks.poststop[0].path", set_in("hooks", "poststop", 0, "path", "true")),
        ("hooks.poststop[0].timeout", set_in("hooks", "poststop", 0, "timeout", 0)),
        ("annotations['a']", set_in("annotations", "a", 1)),
        ("linux.namespaces[0].type", set_in("linux", "namespaces", 0, "type", "disk")),
        ("linux.namespaces", set_in("linux", "namespaces", 0, "type", "uts")),
        ("linux.namespaces", set_in("linux", "namespaces", 0, {"type": "mount", "path": "/proc/1/ns/mnt"})),
        ("linux.devices[0].type", set_in("linux", "devices", 0, "type", "x")),
        ("linux.devices[0].fileMode", set_in("linux", "devices", 0, "fileMode", 0o20000)),
        ("linux.sysctl['vm.swappiness']", set_in("linux", "sysctl", {"vm.swappiness": "1"})),
        ("linux.sysctl['net.a']", set_in("linux", "namespaces", 2, "type", "pid")),
        ("linux.maskedPaths[0]", set_in("linux", "maskedPaths", ["proc/keys"])),
        ("linux.seccomp.defaultAction", set_in("linux", "seccomp", {"defaultAction": "no"})),
        ("linux.seccomp.syscalls[0].names", set_in("linux", "seccomp", "syscalls", 0, "names", [])),
        ("linux.rootfsPropagation", set_in("linux", "rootfsPropagation", "public")),
    ],
)
def test_the_field_is_named(field: str, change: Callable[[dict[str, Any]], None]) -> None:
    spec = copy.deepcopy(GOOD)
    if field == "linux.sysctl['net.a']":
        spec["linux"]["sysctl"] = {"net.a": "1"}
    change(spec)
    with pytest.raises(InvalidParameter) as caught:
        validate(spec)
    assert str(caught.value).startswith(f"config.json: {field} ")


@pytest.mark.parametrize(
    "change",
    [
        set_in("linux", "namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]),
        set_in("linux", "uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}]),
        set_in("linux", "seccomp", "listenerPath", "/x"),
        set_in("linux", "timeOffsets", {"monotonic": {"secs": 1}}),
    ],
)
def test_what_cannot_be_done_is_said(change: Callable[[dict[str, Any]], None]) -> None:
    spec = copy.deepcopy(GOOD)
    spec["linux"]["sysctl"] = {}
    change(spec)
    with pytest.raises(NotSupported):
        validate(spec)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.ipv4.ip_forward", "network"),
        ("net/ipv4/conf/eth0.100/forwarding", "network"),
        ("kernel.shmmax", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("kernel.core_pattern", None),
        ("net/../kernel/core_pattern", None),
        ("vm.swappiness", None),
    ],
)
def test_sysctls_know_their_namespace(name: str, kind: str | None) -> None:
    assert sysctl_namespace(name) == kind

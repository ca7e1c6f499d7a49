"""OCI bundles for tests: a busybox root filesystem, and a config.json with everything a real container has."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from runtime.linux.seccomp import compile_filter
from runtime.oci import defaults

BUSYBOX = Path("/bin/busybox")
BOB = 1000

_APPLETS = (
    *("sh", "true", "false", "sleep", "cat", "ls", "id", "hostname", "mount", "umount", "env", "pwd", "echo", "stty"),
    *("tty", "readlink", "kill", "grep", "stat", "touch", "chmod", "ps", "mkdir", "head", "tail", "wc", "test", "sort"),
)

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "cgroup")


def make_rootfs(root: Path) -> Path:
    """A directory to be a container's root: busybox with its applets, and two users."""
    for name in ("bin", "etc", "tmp", "proc", "dev", "sys", "root", "home/bob", "mnt"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(f"root:x:0:0:root:/root:/bin/sh\nbob:x:{BOB}:{BOB}::/home/bob:/bin/sh\n")
    os.chown(root / "home/bob", BOB, BOB)
    (root / "tmp").chmod(0o1777)
    return root


def make_spec(*args: str, **process: Any) -> dict[str, Any]:
    """The config.json of a container as the engine makes it; `process` overrides fields of its process."""
    capabilities = list(defaults.DEFAULT_CAPABILITIES)
    is_root = process.get("user", {"uid": 0})["uid"] == 0
    kinds = ("bounding", "effective", "permitted") if is_root else ("bounding",)
    return {
        "ociVersion": "1.0.2",
        "hostname": "box",
        "root": {"path": "rootfs"},
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin:/usr/bin", "COLOUR=blue"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(kinds, capabilities),
            "oomScoreAdj": 0,
            **process,
        },
        "mounts": defaults.default_mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS),
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "seccomp": defaults.default_seccomp(capabilities),
        },
    }


def make_bundle(directory: Path, spec: dict[str, Any]) -> Path:
    """Write `spec` and its compiled filter to `directory`, as the engine does."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(spec))
    if "seccomp" in spec["linux"]:
        (directory / "seccomp.bpf").write_bytes(compile_filter(spec["linux"]["seccomp"]))
    return directory


def make_overlay(directory: Path, *lower: Path) -> dict[str, Any]:
    """The rootfs of a `run` request: `lower` (topmost first) under a new upper directory in `directory`."""
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    return {
        "type": "overlay",
        "lower": [str(path) for path in lower],
        "upper": str(directory / "upper"),
        "work": str(directory / "work"),
    }

"""A default container side by side with dockerd's and with a bundle of runc's: ours is as tight, or tighter.

Each comparison is with a program that nobody here wrote; it is left out where that program is not installed or does
not start.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench.peers import Peer, dockerd
from tests.fakes import inside
from tests.fakes.bundles import make_rootfs
from tests.harness import REPOSITORY, RunningEngine

PYTHON = Path("/usr/bin/python3")
PROFILE = REPOSITORY / "runtime/oci/seccomp-default.json"
LIBRARIES = [path for path in ("/usr", "/lib", "/lib64") if Path(path).exists()]
PROBE = Path(inside.__file__ or "")
BINDS = [*LIBRARIES, str(PROBE)]

pytestmark = pytest.mark.skipif(
    not PYTHON.exists() or os.uname().machine != "x86_64", reason="looks around by the host's Python, on x86-64"
)

# Not tried with arguments of -1: they would take effect, or wait for all the machine's disks.
NOT_TRIED = {"fork", "vfork", "sync", "rt_sigreturn", "sigreturn", "exit", "exit_group", "vhangup"}

Inside = dict[str, Any]


def numbers_of_calls() -> dict[str, int]:
    """Every system call that Docker's profile names and libseccomp knows here."""
    library = ctypes.CDLL("libseccomp.so.2")
    names = {name for rule in json.loads(PROFILE.read_text())["syscalls"] for name in rule["names"]}
    # Not in the profile, and so refused: some that were ways out.
    names |= {"keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup", "io_uring_enter", "kexec_load"}
    numbers = {name: library.seccomp_syscall_resolve_name(name.encode()) for name in names - NOT_TRIED}
    return {name: number for name, number in sorted(numbers.items()) if number >= 0}


def command() -> list[str]:
    return [str(PYTHON), str(PROBE), json.dumps(numbers_of_calls())]


def look(docker: Callable[..., subprocess.CompletedProcess[bytes]], *options: str) -> Inside:
    binds = [f"--volume={path}:{path}:ro" for path in BINDS]
    done = docker("run", "--rm", "--network=none", *options, *binds, "busybox", *command())
    assert done.returncode == 0, done
    found: Inside = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ours(engine: RunningEngine) -> Inside:
    return look(engine.docker)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path) -> Iterator[Peer]:
    with dockerd(tmp_path_factory.mktemp("dockerd") / "docker") as found:
        if found is None:
            pytest.skip("no dockerd that starts is installed")
        command = ["docker", "load", "-q", "-i", str(busybox_archive)]
        subprocess.run(command, env=found.environment(), check=True, stdout=subprocess.DEVNULL)
        yield found


def test_beside_dockerd(ours: Inside, peer: Peer) -> None:
    def docker(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", *arguments], env=peer.environment(), capture_output=True, timeout=60, check=False
        )

    # The same profile, as moby reads it: the one inside an older dockerd has other system calls.
    theirs = look(docker, f"--security-opt=seccomp={PROFILE}", "--cgroupns=private")
    found = list(looser(ours, theirs))
    assert not found, "\n".join(found)


def test_keyrings_beside_dockerd(engine: RunningEngine, peer: Peer, tmp_path: Path) -> None:
    def described(name: str, environment: dict[str, str]) -> str:
        cid = tmp_path / name
        binds = [f"--volume={path}:{path}:ro" for path in BINDS]
        options = [f"--cidfile={cid}", "--security-opt=seccomp=unconfined", "--network=none", *binds]
        run = ["docker", "run", "--rm", *options, "busybox", str(PYTHON), str(PROBE), "{}"]
        out = subprocess.run(run, env=environment, capture_output=True, timeout=60, check=True).stdout
        keyring: str = json.loads(out)["keyring"]
        return keyring.replace(cid.read_text(), "ID")

    theirs = described("dockerd", peer.environment()).split(";")
    ours = described("wherry", {**os.environ, "DOCKER_HOST": engine.host}).split(";")
    assert ours[:3] == theirs[:3] == ["keyring", "0", "0"]
    assert ours[4].endswith("ID") and theirs[4].endswith("ID")
    # Permissions: dockerd's can also be found, and so joined, by whoever has its owner's uid.
    assert not int(ours[3], 16) & ~int(theirs[3], 16)


def test_beside_runc(ours: Inside, tmp_path: Path) -> None:
    if shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    bundle = tmp_path / "bundle"
    rootfs = make_rootfs(bundle / "rootfs")
    for path in LIBRARIES:
        (rootfs / path[1:]).mkdir(parents=True)
    (bundle / "config.json").write_text(json.dumps(documented_defaults()))
    with tempfile.TemporaryDirectory() as state:
        name = f"wherry-defaults-{os.getpid()}"
        run = ["runc", "--root", state, "run", "--bundle", str(bundle), name]
        done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    theirs: Inside = json.loads(done.stdout)
    # The engine's files, on whichever file system its run directory is.
    theirs["mounts"] |= {path: ours["mounts"][path] for path in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")}
    theirs["status"]["Groups"] = ours["status"]["Groups"]  # those of the image's root
    theirs["calls"] = {}  # libseccomp's reading of the profile is compared with moby's own
    found = list(looser(ours, theirs))
    assert not found, "\n".join(found)


def documented_defaults() -> dict[str, Any]:
    """A bundle as Docker's reference describes a default container (docs.docker.com, "docker container run")."""
    capabilities = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID"
    names = [f"CAP_{name}" for name in f"{capabilities} SETPCAP SETUID SYS_CHROOT".split()]
    hidden = ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi"]
    hidden += ["timer_list", "timer_stats"]
    safe = ["nosuid", "noexec", "nodev"]

    def mount(type: str, destination: str, *options: str) -> dict[str, Any]:
        return {"type": type, "source": type, "destination": destination, "options": list(options)}

    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "args": command(),
            "cwd": "/",
            "env": ["PATH=/bin:/usr/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
        },
        "mounts": [
            mount("proc", "/proc", *safe),
            mount("tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            mount("sysfs", "/sys", *safe, "ro"),
            mount("cgroup", "/sys/fs/cgroup", *safe, "ro"),
            mount("mqueue", "/dev/mqueue", *safe),
            mount("tmpfs", "/dev/shm", *safe, "mode=1777", "size=64m"),
            *(
                {"type": "bind", "source": path, "destination": path, "options": ["rbind", "ro", "rprivate"]}
                for path in BINDS
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts", "cgroup")],
            "maskedPaths": [*(f"/proc/{name}" for name in hidden), "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
        },
    }


# --- what is looser with us, one sentence each


def looser(ours: Inside, theirs: Inside) -> Iterator[str]:
    yield from _looser_status(ours["status"], theirs["status"])
    yield from _looser_mounts(ours["mounts"], theirs["mounts"])
    for name, node in ours["devices"].items():
        # /dev/core is a link to what is masked; both make it where the kernel has a kcore.
        if theirs["devices"].get(name) != node:
            yield f"/dev/{name} is {node}, not {theirs['devices'].get(name)}"
    for name in ours["sysctls"].keys() | theirs["sysctls"].keys():
        mine, other = (seen["sysctls"].get(name) for seen in (ours, theirs))
        if mine != other and None not in (mine, other) and (name, mine) not in EXPLAINED_SYSCTLS:
            yield f"{name} is {mine}, not {other}"
    for path in _beyond(ours["writable"], theirs["writable"]):
        yield f"{path} is writable"
    for name, text in ours["hidden"].items():
        if text:
            yield f"/proc/{name} shows {text[:60]}"
    host = {name: os.readlink(f"/proc/self/ns/{name}") for name in ours["namespaces"]}
    for name, namespace in ours["namespaces"].items():
        if namespace == host[name] and theirs["namespaces"].get(name) != host[name]:
            yield f"the {name} namespace is the host's"
    if ours["maps"] != theirs["maps"]:
        yield f"the maps are {ours['maps']}, not {theirs['maps']}"
    for name, answer in theirs["calls"].items():
        if answer in REFUSED and ours["calls"][name] not in REFUSED:
            yield f"{name} answers {ours['calls'][name]}, not {answer}"


# (name, our value): why it is another.
EXPLAINED_SYSCTLS = {
    ("net/ipv6/conf/all/disable_ipv6", "0"): "as Docker from 26 on: ::1 is there",
    ("net/ipv6/conf/lo/disable_ipv6", "0"): "the same",
    ("net/ipv6/conf/default/disable_ipv6", "1"): "interfaces have no IPv6 unless their network has",
    ("net/ipv4/conf/default/arp_notify", "1"): "an address that is used again is announced",
    ("net/ipv4/conf/lo/arp_notify", "1"): "the same",
}


def _looser_status(ours: dict[str, str], theirs: dict[str, str]) -> Iterator[str]:
    for name, mine in ours.items():
        other = theirs.get(name, "0")
        if name.startswith("Cap"):
            if extra := int(mine, 16) & ~int(other, 16):
                yield f"{name} has {extra:x} more"
        elif name in ("NoNewPrivs", "Seccomp_filters"):
            if int(mine) < int(other):
                yield f"{name} is {mine}, not {other}"
        elif name == "Seccomp":
            if mine != "2":
                yield f"Seccomp is {mine}, not 2"
        elif mine.split() != other.split():
            yield f"{name} is {mine}, not {other}"


REFUSED = ("EPERM", "ENOSYS")
RESTRICTIONS = {"ro", "nosuid", "nodev", "noexec"}


def _looser_mounts(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    def is_own(point: str) -> bool:
        return point != "/" and not point.startswith(tuple(BINDS))

    for point in filter(is_own, theirs):
        if point not in ours:
            yield f"{point} is not mounted over"
        elif missing := RESTRICTIONS & set(theirs[point]["options"]) - set(ours[point]["options"]):
            yield f"{point} is not mounted {', '.join(sorted(missing))}"
    for point in filter(is_own, ours):
        if any(word.startswith("shared:") for word in ours[point]["propagation"]):
            yield f"{point} is shared with the host"
        if point not in theirs and "ro" not in ours[point]["options"]:
            yield f"{point} is mounted too, and writable"


def _beyond(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return sorted(set(ours) - set(theirs))

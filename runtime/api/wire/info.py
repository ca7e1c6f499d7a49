"""SystemInfo and SystemVersion: what the engine is, and what it can do on this host."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from asyncio import all_tasks
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import runtime
from runtime import __version__
from runtime.api.wire.times import timestamp
from runtime.cgroups import HostFacts, host_facts
from runtime.engine import cdi
from runtime.engine.engine import Engine
from runtime.oci.image import platform_of_host
from runtime.registry.hosts import RegistrySettings

UNKNOWN = "N/A"  # moby's word for a commit it cannot tell
FILE_SYSTEM_NAMES = {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "overlay": "overlayfs"}  # statfs magics in moby
EXPECTED_COMMITS_UNTIL = (1, 48)
FIREWALL_SINCE = (1, 49)

# (host_facts, cgroup versions that have it at all, moby's warning)
WARNINGS: tuple[tuple[str, str, str], ...] = (
    ("memory_limit", "12", "WARNING: No memory limit support"),
    ("swap_limit", "12", "WARNING: No swap limit support"),
    ("oom_kill_disable", "1", "WARNING: No oom kill disable support"),
    ("cpu_quota", "12", "WARNING: No cpu cfs quota support"),
    ("cpu_quota", "12", "WARNING: No cpu cfs period support"),
    ("cpu_shares", "12", "WARNING: No cpu shares support"),
    ("cpu_set", "12", "WARNING: No cpuset support"),
    ("io_weight", "2", "WARNING: No io.weight support"),
    ("io_weight", "2", "WARNING: No io.weight (per device) support"),
    ("io_throttle", "2", "WARNING: No io.max (rbps) support"),
    ("io_throttle", "2", "WARNING: No io.max (wbps) support"),
    ("io_throttle", "2", "WARNING: No io.max (riops) support"),
    ("io_throttle", "2", "WARNING: No io.max (wiops) support"),
)


def version(api_version: str, min_api_version: str) -> dict[str, Any]:
    facts = {
        "ApiVersion": api_version,
        "Arch": platform_of_host()["architecture"],
        "BuildTime": _build_time(),
        "GitCommit": UNKNOWN,
        "GoVersion": f"python{platform.python_version()}",
        "KernelVersion": os.uname().release,
        "MinAPIVersion": min_api_version,
        "Os": "linux",
    }
    return {
        "Platform": {"Name": "Wherry"},
        "Components": [{"Name": "Engine", "Version": __version__, "Details": {**facts, "Experimental": "false"}}],
        "Version": __version__,
        **facts,
    }


@cache
def _build_time() -> str:
    """When this code was written to this disk."""
    return timestamp(Path(runtime.__file__).stat().st_mtime_ns)


def info(engine: Engine, api_version: tuple[int, int], debug: bool, firewall: Sequence[str]) -> dict[str, Any]:
    """`firewall` are sentences about other firewalls in the way of ours."""
    host, cgroups = os.uname(), host_facts()
    forwarding = _ipv4_forwarding()
    document = {
        "ID": engine.settings.instance,
        **_containers(engine),
        "Images": len(engine.images.all()),
        "Driver": "overlay2",
        "DriverStatus": _driver_status(engine.settings.data_root),
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
            "Authorization": None,
            "Log": ["json-file", "local", "none"],
        },
        "MemoryLimit": cgroups["memory_limit"],
        "SwapLimit": cgroups["swap_limit"],
        "CpuCfsPeriod": cgroups["cpu_quota"],
        "CpuCfsQuota": cgroups["cpu_quota"],
        "CPUShares": cgroups["cpu_shares"],
        "CPUSet": cgroups["cpu_set"],
        "PidsLimit": cgroups["pids_limit"],
        "OomKillDisable": cgroups["oom_kill_disable"],
        "IPv4Forwarding": forwarding,
        "Debug": debug,
        "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": len(all_tasks()) + threading.active_count(),
        "SystemTime": timestamp(time.time_ns()),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroups["version"],
        "NEventsListener": engine.events.listeners,
        "KernelVersion": host.release,
        "OperatingSystem": _os_release().get("PRETTY_NAME", "Linux"),
        "OSVersion": _os_release().get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": host.machine,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            **_registries(engine.settings.registries),
        },
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "GenericResources": None,
        "DockerRootDir": str(engine.settings.data_root),
        "HttpProxy": _proxy("HTTP_PROXY"),
        "HttpsProxy": _proxy("HTTPS_PROXY"),
        "NoProxy": _environment("NO_PROXY"),
        "Name": host.nodename,
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": __version__,
        "Runtimes": {"runc": {"path": "wherry"}, "wherry": {"path": "wherry"}},
        "DefaultRuntime": "runc",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "tini",
        **{f"{part}Commit": _commit(api_version) for part in ("Containerd", "Runc", "Init")},
        "SecurityOptions": _security_options(engine.settings.user_ids is not None),
        "CDISpecDirs": [str(directory) for directory in engine.settings.cdi_spec_dirs],
        "DiscoveredDevices": [
            {"Source": "cdi", "ID": name} for name in sorted(cdi.Registry.read(engine.settings.cdi_spec_dirs).devices)
        ],
        "Warnings": [*warnings(cgroups, forwarding), *(f"WARNING: {text}" for text in firewall)] or None,
    }
    if api_version >= FIREWALL_SINCE:
        document["FirewallBackend"] = {"Driver": "nftables"}
    return document


def _containers(engine: Engine) -> dict[str, int]:
    counts = Counter(container.state.status for container in engine.containers.all())
    running, paused = counts["running"], counts["paused"]
    return {
        "Containers": counts.total(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": counts.total() - running - paused,
    }


def _driver_status(data_root: Path) -> list[list[str]]:
    kind = _file_system_of(data_root)
    return [
        ["Backing Filesystem", FILE_SYSTEM_NAMES.get(kind, kind)],
        ["Supports d_type", "true"],
        ["Using metacopy", "false"],
        ["Native Overlay Diff", "true"],
        ["userxattr", "false"],
    ]


def _file_system_of(path: Path) -> str:
    """By its device number, proc_pid_mountinfo(5); "unknown" when that says nothing, as for btrfs subvolumes."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return "unknown"


def warnings(cgroups: HostFacts, ipv4_forwarding: bool) -> list[str]:
    found = [
        text
        for fact, versions, text in WARNINGS
        if cgroups["version"] in versions and not cgroups[fact]  # type: ignore[literal-required]
    ]
    return found if ipv4_forwarding else [*found, "WARNING: IPv4 forwarding is disabled"]


def _ipv4_forwarding() -> bool:
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        return False


def _commit(api_version: tuple[int, int]) -> dict[str, str]:
    """There is neither containerd nor runc here; clients print the fields all the same."""
    return {"ID": UNKNOWN, "Expected": UNKNOWN} if api_version <= EXPECTED_COMMITS_UNTIL else {"ID": UNKNOWN}


def _security_options(remapped: bool) -> list[str]:
    options = ["name=seccomp,profile=builtin"]
    if remapped:
        options.append("name=userns")
    if os.path.exists("/proc/self/ns/cgroup"):
        options.append("name=cgroupns")
    return options


def _registries(settings: RegistrySettings) -> dict[str, Any]:
    mirrors = list(settings.mirrors)
    hosts = {
        host: {"Name": host, "Mirrors": [], "Secure": False, "Official": False}
        for host in settings.insecure
        if "/" not in host
    }
    hub = {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True}
    networks = [network for network in settings.insecure if "/" in network]
    return {
        "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8", *networks],
        "IndexConfigs": {"docker.io": hub, **hosts},
        "Mirrors": mirrors,
    }


def _environment(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.lower()) or ""


def _proxy(name: str) -> str:
    """The variable with any user and password hidden, as moby's maskCredentials does."""
    text = _environment(name)
    if "@" not in text or urlsplit(text).username is None:
        return text
    return re.sub(r"//[^/@]*@", "//xxxxx:xxxxx@", text)


@cache
def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}

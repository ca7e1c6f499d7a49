"""What a container gets when nobody asks for anything else: Docker's defaults, as data.

Sources: moby daemon/pkg/oci/{caps,defaults}.go and profiles/seccomp, runc libcontainer/specconv, OCI
runtime-spec config-linux.md. `seccomp-default.json` is moby's profile, unchanged; it is in Docker's own
format, which adds to OCI's what each rule depends on (capabilities, architectures, kernel version).
"""

import functools
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from runtime.errors import InvalidParameter
from runtime.linux.seccomp import ACTIONS, FLAGS, OPERATORS
from runtime.oci.spec import Device, DeviceCgroup, LinuxSeccomp, Mount

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_CPUS = Path("/sys/devices/system/cpu")


@functools.cache
def masked_paths() -> tuple[str, ...]:
    """MASKED_PATHS and, where this host has such, the heat sensors of each CPU (GHSA-6fw5-f8r9-fgfm)."""
    sensors = (f"{cpu}/thermal_throttle" for cpu in sorted(_CPUS.glob("cpu[0-9]*")))
    return (*MASKED_PATHS, *filter(os.path.isdir, sensors))


READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

DEFAULT_SHM_SIZE_BYTES = 64 * 1024 * 1024


def default_mounts(shm_size_bytes: int = DEFAULT_SHM_SIZE_BYTES) -> list[Mount]:
    """Return a new list of Docker's mounts, in mounting order."""
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size_bytes}"),
    ]


def _mount(destination: str, type_: str, source: str, *options: str) -> Mount:
    return {"destination": destination, "type": type_, "source": source, "options": list(options)}


def _device(path: str, major: int, minor: int) -> Device:
    return {
        "path": path,
        "type": "c",
        "major": major,
        "minor": minor,
        "fileMode": 0o666,
        "uid": 0,
        "gid": 0,
    }


DEFAULT_DEVICES: tuple[Device, ...] = (
    _device("/dev/null", 1, 3),
    _device("/dev/zero", 1, 5),
    _device("/dev/full", 1, 7),
    _device("/dev/random", 1, 8),
    _device("/dev/urandom", 1, 9),
    _device("/dev/tty", 5, 0),
)
"""The nodes the specification promises; `console` and `ptmx` are made from the container's own devpts."""

DEFAULT_DEVICE_RULES: tuple[DeviceCgroup, ...] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 1, "access": "rwm"},  # console
)
"""Start of every container's `linux.resources.devices`: nothing, besides RUNTIME_DEVICE_RULES."""

RUNTIME_DEVICE_RULES: tuple[DeviceCgroup, ...] = (
    # Making a node is harmless: opening it is what the rules decide.
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        DeviceCgroup(allow=True, type="c", major=device["major"], minor=device["minor"], access="rwm")
        for device in DEFAULT_DEVICES
    ),
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},  # ptmx
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},  # pts/*
)
"""What `runtime.cgroups` adds after any bundle's device rules, so that no list can forbid DEFAULT_DEVICES."""


# uname(2) machine → (the name in a profile's `arches`, the name in its `archMap`)
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
}

# Keys of a Docker profile that OCI's has not, and those of its rules.
_DOCKER_KEYS = {"archMap"}
_DOCKER_RULE_KEYS = {"name", "comment", "includes", "excludes"}


def default_seccomp(capabilities: Collection[str]) -> LinuxSeccomp:
    """Return Docker's default profile for a container with these (bounding) capabilities on this machine.

    One object per set of capabilities, not to be modified.
    """
    return _default_seccomp(frozenset(capabilities))


@functools.cache
def _default_seccomp(capabilities: frozenset[str]) -> LinuxSeccomp:
    profile = json.loads(Path(__file__).with_name("seccomp-default.json").read_bytes())
    return load_seccomp_profile(profile, capabilities)


def load_seccomp_profile(profile: Mapping[str, Any], capabilities: Collection[str]) -> LinuxSeccomp:
    """Resolve a seccomp profile, in Docker's format or in OCI's, for this machine and these capabilities.

    `includes` and `excludes` are decided as Docker does: architectures and capabilities of `includes` must
    all (capabilities) or one of them (architectures) be there, those of `excludes` must not; `minKernel` is
    "major.minor". Raises InvalidParameter naming the part of the profile that makes no sense.
    """
    uname = os.uname()
    arch, native = _ARCHITECTURES.get(uname.machine, (uname.machine, ""))
    kernel = _version(uname.release)
    _one_of(ACTIONS, profile.get("defaultAction"), "defaultAction")
    for position, flag in enumerate(profile.get("flags") or ()):
        _one_of(FLAGS, flag, f"flags[{position}]")
    if profile.get("architectures") and profile.get("archMap"):
        raise _invalid("use either architectures or archMap, not both")

    resolved = {key: value for key, value in profile.items() if key not in _DOCKER_KEYS and value is not None}
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            resolved["architectures"] = [native, *(entry.get("subArchitectures") or ())]
    resolved["syscalls"] = [
        _oci_rule(rule, position)
        for position, rule in enumerate(profile.get("syscalls") or ())
        if _applies(rule, arch, capabilities, kernel)
    ]
    return cast(LinuxSeccomp, resolved)


def _applies(rule: Mapping[str, Any], arch: str, capabilities: Collection[str], kernel: tuple[int, int]) -> bool:
    includes = rule.get("includes") or {}
    excludes = rule.get("excludes") or {}
    return (
        (not includes.get("arches") or arch in includes["arches"])
        and all(name in capabilities for name in includes.get("caps") or ())
        and (not includes.get("minKernel") or kernel >= _version(includes["minKernel"]))
        and arch not in (excludes.get("arches") or ())
        and not any(name in capabilities for name in excludes.get("caps") or ())
        and (not excludes.get("minKernel") or kernel < _version(excludes["minKernel"]))
    )


def _oci_rule(rule: Mapping[str, Any], position: int) -> dict[str, Any]:
    where = f"syscalls[{position}]"
    if rule.get("name") and rule.get("names"):
        raise _invalid(f"{where} has both name and names; keep one")
    names = rule.get("names") or [rule.get("name")]
    if not all(name and isinstance(name, str) for name in names):
        raise _invalid(f"{where} names no system call")
    _one_of(ACTIONS, rule.get("action"), f"{where}.action")
    for number, arg in enumerate(rule.get("args") or ()):
        _check_comparison(arg, f"{where}.args[{number}]")
    kept = {key: value for key, value in rule.items() if key not in _DOCKER_RULE_KEYS and value is not None}
    return kept | {"names": names}


def _check_comparison(arg: Mapping[str, Any], where: str) -> None:
    _one_of(OPERATORS, arg.get("op"), f"{where}.op")
    for key, default, highest in (("index", None, 5), ("value", None, 2**64 - 1), ("valueTwo", 0, 2**64 - 1)):
        value = arg.get(key, default)
        if type(value) is not int or not 0 <= value <= highest:
            raise _invalid(f"{where}.{key} is {value!r}, not a number from 0 to {highest}")


def _one_of(known: Collection[str], word: object, where: str) -> None:
    if not isinstance(word, str) or word not in known:
        raise _invalid(f"{where} is {word!r}, not one of {', '.join(known)}")


def _invalid(problem: str) -> InvalidParameter:
    return InvalidParameter(f"invalid seccomp profile: {problem}")


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise _invalid(f"minKernel {text!r} is not major.minor")
    return int(match[1]), int(match[2])

"""Docker's defaults, and resolving seccomp profiles."""

import os
import re
from typing import Any

import pytest

from runtime.errors import InvalidParameter
from runtime.linux.capabilities import NAMES
from runtime.oci import defaults
from runtime.oci.defaults import (
    DEFAULT_CAPABILITIES,
    MASKED_PATHS,
    READONLY_PATHS,
    default_mounts,
    default_seccomp,
    load_seccomp_profile,
)
from runtime.oci.validate import validate


def profile(**rule: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ALLOW", **rule}]}


def resolved(capabilities: tuple[str, ...] = (), **rule: Any) -> bool:
    """Whether a rule with these conditions stays."""
    return bool(load_seccomp_profile(profile(**rule), capabilities)["syscalls"])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(machine: str, release: str) -> None:
        uname = os.uname_result(("Linux", "host", release, "#1", machine))
        monkeypatch.setattr(defaults.os, "uname", lambda: uname)

    return pretend


def test_the_fourteen_capabilities_of_docker() -> None:
    assert len(set(DEFAULT_CAPABILITIES)) == 14
    assert set(DEFAULT_CAPABILITIES) < NAMES.keys()
    assert not {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"} & set(DEFAULT_CAPABILITIES)


def test_the_defaults_make_a_valid_bundle() -> None:
    validate(
        {
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "args": ["true"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": list(DEFAULT_CAPABILITIES)},
            },
            "mounts": default_mounts(),
            "linux": {
                "namespaces": [{"type": "mount"}],
                "devices": list(defaults.DEFAULT_DEVICES),
                "resources": {"devices": [*defaults.DEFAULT_DEVICE_RULES, *defaults.RUNTIME_DEVICE_RULES]},
                "maskedPaths": list(MASKED_PATHS),
                "readonlyPaths": list(READONLY_PATHS),
                "seccomp": default_seccomp(DEFAULT_CAPABILITIES),
            },
        }
    )


def test_mounts_are_the_callers_own() -> None:
    default_mounts()[0]["options"].append("ro")
    assert "ro" not in default_mounts()[0]["options"]
    shm = default_mounts(shm_size_bytes=1234)[-1]
    assert shm["destination"] == "/dev/shm"
    assert "size=1234" in shm["options"]


@pytest.mark.parametrize(
    ("conditions", "capabilities", "stays"),
    [
        ({}, (), True),
        ({"includes": {"caps": ["CAP_BPF"]}}, (), False),
        ({"includes": {"caps": ["CAP_BPF"]}}, ("CAP_BPF",), True),
        ({"includes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, ("CAP_BPF",), False),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, ("CAP_BPF",), False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, (), True),
        ({"includes": {"arches": ["s390x", "arm64"]}}, (), True),
        ({"includes": {"arches": ["s390x"]}}, (), False),
        ({"excludes": {"arches": ["arm64"]}}, (), False),
        ({"includes": {"minKernel": "5.9"}}, (), True),
        ({"includes": {"minKernel": "5.10"}}, (), True),
        ({"includes": {"minKernel": "5.11"}}, (), False),
        ({"excludes": {"minKernel": "4.8"}}, (), False),
        ({"excludes": {"minKernel": "6.0"}}, (), True),
        ({"includes": {"arches": ["arm64"], "caps": ["CAP_BPF"]}}, (), False),
        ({"includes": {}, "excludes": None}, (), True),
    ],
)
def test_conditions(machine: Any, conditions: Any, capabilities: tuple[str, ...], stays: bool) -> None:
    machine("aarch64", "5.10.0-28-arm64")
    assert resolved(capabilities, **conditions) is stays


@pytest.mark.parametrize(
    ("name", "architectures"),
    [
        ("x86_64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        ("aarch64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        ("riscv64", ["SCMP_ARCH_RISCV64"]),
    ],
)
def test_architectures_of_the_default_profile(machine: Any, name: str, architectures: list[str]) -> None:
    machine(name, "6.1.0")
    defaults._default_seccomp.cache_clear()
    try:
        assert default_seccomp(DEFAULT_CAPABILITIES)["architectures"] == architectures
    finally:
        defaults._default_seccomp.cache_clear()


def test_nothing_of_dockers_own_format_is_left() -> None:
    resolved_profile = default_seccomp(DEFAULT_CAPABILITIES)
    assert resolved_profile.keys() == {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
    for rule in resolved_profile["syscalls"]:
        assert rule.keys() <= {"names", "action", "errnoRet", "args"}


def test_a_plain_oci_profile_is_kept() -> None:
    plain = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    assert load_seccomp_profile(plain, ()) == plain


def test_the_old_singular_name() -> None:
    old = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW"}]}
    assert load_seccomp_profile(old, ())["syscalls"] == [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "defaultAction is None"),
        (profile() | {"defaultAction": "ALLOW"}, "defaultAction is 'ALLOW', not one of SCMP_ACT_KILL"),
        (profile() | {"flags": ["x"]}, "flags[0] is 'x'"),
        (profile() | {"architectures": ["a"], "archMap": [{}]}, "use either architectures or archMap"),
        (profile(name="y"), "syscalls[0] has both name and names"),
        (profile(names=[]), "syscalls[0] names no system call"),
        (profile(names=[7]), "syscalls[0] names no system call"),
        (profile(action="no"), "syscalls[0].action is 'no'"),
        (profile(args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]), "syscalls[0].args[0].index is 6"),
        (profile(args=[{"index": 0, "value": "1", "op": "SCMP_CMP_EQ"}]), "syscalls[0].args[0].value is '1'"),
        (profile(args=[{"index": 0, "value": 1, "op": "EQ"}]), "syscalls[0].args[0].op is 'EQ'"),
        (profile(includes={"minKernel": "new"}), "minKernel 'new' is not major.minor"),
    ],
)
def test_what_makes_no_sense_is_named(bad: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"invalid seccomp profile: {re.escape(message)}"):
        load_seccomp_profile(bad, ())

"""Plans, without carrying them out: what is in them, and in which order."""

from typing import Any

import pytest

from runtime.container.facts import HostFacts
from runtime.container.mount_options import parse
from runtime.container.op import Refused
from runtime.container.plan import Launch, Stdio, clone_flags, compile_container
from runtime.linux import mounts, namespaces
from runtime.oci import defaults

FACTS = HostFacts(cgroup_v1={}, apparmor=True, kcore=False, oom_score_adj=-900, nofile=(1024, 4096))
LAUNCH = Launch(id="x", bundle="/bundle", stdio=Stdio(), seccomp=b"\0" * 8)


def spec(**process: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 5, "gid": 6}, **process},
        "mounts": defaults.default_mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "uts", "network", "cgroup")],
            "maskedPaths": ["/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def names(document: Any, launch: Launch = LAUNCH) -> list[str]:
    plan = compile_container(document, launch, FACTS)
    return [type(op).__name__ for phase in (*plan.prepare, *plan.commit) for op in phase.ops]


def test_order() -> None:
    ops = names(spec(apparmorProfile="docker-default", capabilities={"bounding": []}))
    expected = [
        "UseStdio",
        "SetOomScore",
        "NewCgroupNamespace",
        "IsolateMounts",
        "BindRoot",
        "MountFilesystem",
        "MakeDevice",
        "SetHostname",
        "ReadonlyPaths",
        "MaskPaths",
        "SetApparmorProfile",
        "PivotRoot",
        "SetRlimit",
        "DropBoundingCapabilities",
        "InstallSeccomp",
        "BecomeUser",
        "SetCapabilities",
    ]
    assert list(dict.fromkeys(op for op in ops if op in expected)) == expected


def test_the_filter_comes_last_with_no_new_privileges() -> None:
    assert names(spec(noNewPrivileges=True))[-2:] == ["SetNoNewPrivileges", "InstallSeccomp"]


def test_cgroup_is_joined_before_its_namespace() -> None:
    ops = names(spec(), LAUNCH._replace(join=["/sys/fs/cgroup/x/cgroup.procs"]))
    assert ops.index("JoinCgroup") < ops.index("NewCgroupNamespace")


def test_everything_describes_itself() -> None:
    plan = compile_container(spec(terminal=True, noNewPrivileges=True), LAUNCH, FACTS)  # type: ignore[arg-type]
    for phase in (*plan.prepare, *plan.commit):
        assert phase.name
        for op in phase.ops:
            assert op.describe()


def test_clone_flags() -> None:
    document: Any = spec()
    base = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS
    assert clone_flags(document, None) == base | namespaces.CLONE_NEWNET
    assert clone_flags(document, 7) == base
    document["linux"]["namespaces"][0]["path"] = "/proc/1/ns/pid"
    assert not clone_flags(document, None) & namespaces.CLONE_NEWPID
    document["linux"]["namespaces"] = [{"type": "pid"}]
    with pytest.raises(Refused):
        clone_flags(document, None)


def test_the_hosts_names_are_left_alone() -> None:
    document = spec()
    document["linux"]["namespaces"] = [{"type": "mount"}]
    assert "SetHostname" not in names(document)


@pytest.mark.parametrize("hook", ["prestart", "createRuntime"])
def test_hooks_nobody_would_run_are_refused(hook: str) -> None:
    document = spec()
    document["hooks"] = {hook: [{"path": "/bin/true"}]}
    with pytest.raises(Refused):
        names(document)


def test_mount_options() -> None:
    attributes = parse(["ro", "nosuid", "rw", "relatime", "rslave", "size=5", "rro"])
    assert attributes.set == mounts.MOUNT_ATTR_NOSUID
    assert attributes.clear & mounts.MOUNT_ATTR_RDONLY
    assert attributes.recursive_set == mounts.MOUNT_ATTR_RDONLY
    assert (attributes.propagation, attributes.propagation_recursive) == (mounts.MS_SLAVE, True)
    assert attributes.options == ("size=5",)


def test_a_bind_mount_takes_no_filesystem_options() -> None:
    document = spec()
    document["mounts"].append({"destination": "/x", "type": "bind", "source": "/y", "options": ["size=5"]})
    with pytest.raises(Refused, match="size=5"):
        names(document)

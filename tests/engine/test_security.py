"""Who a container's process is and what it may do: the defaults, absolutely, and every option that changes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import RunningEngine


def run(engine: RunningEngine, *arguments: str, code: int = 0) -> str:
    done = engine.docker("run", "--rm", *arguments)
    assert done.returncode == code, done
    return (done.stdout if code == 0 else done.stderr).decode().strip()


def status(engine: RunningEngine, field: str, *options: str) -> str:
    return run(engine, *options, "busybox", "grep", f"^{field}:", "/proc/self/status").split(None, 1)[1]


def test_the_defaults(engine: RunningEngine) -> None:
    text = run(engine, "busybox", "cat", "/proc/self/status")
    found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert found[name] == "00000000a80425fb"
    assert (found["CapInh"], found["CapAmb"]) == ("0" * 16, "0" * 16)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "2")
    assert found["Uid"].split() == ["0"] * 4
    mounts = run(engine, "busybox", "cat", "/proc/mounts").splitlines()
    options = {line.split()[1]: set(line.split()[3].split(",")) for line in mounts}
    for path, wanted in {
        "/proc": {"rw", "nosuid", "nodev", "noexec"},
        "/dev": {"rw", "nosuid"},
        "/dev/pts": {"rw", "nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"},
        "/dev/shm": {"rw", "nosuid", "nodev", "noexec"},
        "/dev/mqueue": {"rw", "nosuid", "nodev", "noexec"},
        "/sys": {"ro", "nosuid", "nodev", "noexec"},
        "/proc/sys": {"ro"},
        "/proc/bus": {"ro"},
        "/proc/fs": {"ro"},
        "/proc/irq": {"ro"},
        "/proc/sysrq-trigger": {"ro"},
    }.items():
        if path in options or path in ("/proc", "/dev", "/sys", "/proc/sys"):
            assert wanted <= options[path], (path, options[path])
    assert not any("ro" not in option for path, option in options.items() if path.startswith("/sys/fs/cgroup/"))
    names = run(engine, "busybox", "ls", "/dev").split()
    expected = ["core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"]
    assert [name for name in names if name != "core"] == [*expected[1:], "tty", "urandom", "zero"]
    sysctls = "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"
    assert run(engine, "busybox", "sh", "-c", f"cat {sysctls}").split() == ["0", "0", "2147483647"]


def test_masked_paths_are_shown(engine: RunningEngine) -> None:
    engine.docker("create", "--name", "plain", "busybox")
    engine.docker("create", "--name", "open", "--security-opt", "systempaths=unconfined", "busybox")
    plain, unmasked = (engine.get(f"/containers/{name}/json")["HostConfig"] for name in ("plain", "open"))
    assert {"/proc/interrupts", "/proc/kcore", "/sys/devices/virtual/powercap"} <= set(plain["MaskedPaths"])
    assert "/proc/sys" in plain["ReadonlyPaths"]
    assert (unmasked["MaskedPaths"], unmasked["ReadonlyPaths"]) == ([], [])


@pytest.mark.parametrize("option", ["systempaths=unconfined", "mask=unconfined"])
def test_unmasked(engine: RunningEngine, option: str) -> None:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "cat /proc/interrupts | wc -l"]}
    body["HostConfig"] = {"SecurityOpt": [option], "AutoRemove": False}
    id = engine.post("/containers/create", body, 201)["Id"]
    engine.post(f"/containers/{id}/start")
    engine.post(f"/containers/{id}/wait", expect=200)
    assert int(engine.docker("logs", id).stdout) > 1


@pytest.mark.parametrize(
    "options, field, value",
    [
        (["--security-opt", "no-new-privileges"], "NoNewPrivs", "1"),
        (["--security-opt", "no-new-privileges=false"], "NoNewPrivs", "0"),
        (["--security-opt", "seccomp=unconfined"], "Seccomp", "0"),
        (["--security-opt", "seccomp=builtin"], "Seccomp", "2"),
        (["--security-opt", "label=type:x", "--security-opt", "apparmor=x"], "NoNewPrivs", "0"),
        (["--cap-drop", "all"], "CapEff", "0" * 16),
        (["--cap-drop", "ALL", "--cap-add", "cap_chown"], "CapEff", "0" * 15 + "1"),
        (["--user", "1000"], "CapEff", "0" * 16),
        (["--user", "1000"], "CapBnd", "00000000a80425fb"),
    ],
)
def test_options(engine: RunningEngine, options: list[str], field: str, value: str) -> None:
    if any("apparmor" in option for option in options) and Path("/sys/kernel/security/apparmor").exists():
        pytest.skip("this kernel has AppArmor")
    assert status(engine, field, *options) == value


@pytest.mark.parametrize(
    "host, words",
    [
        ({"SecurityOpt": ["nonsense"]}, 'invalid --security-opt 1: "nonsense"'),
        ({"SecurityOpt": ["some=thing"]}, 'invalid --security-opt 2: "some=thing"'),
        ({"SecurityOpt": ["credentialspec=file://x"]}, 'invalid --security-opt 2: "credentialspec=file://x"'),
        ({"SecurityOpt": ["no-new-privileges=maybe"]}, 'invalid --security-opt 2: "no-new-privileges=maybe"'),
        ({"SecurityOpt": ["seccomp={"]}, "Decoding seccomp profile failed"),
        ({"SecurityOpt": ['seccomp={"defaultAction": "SCMP_ACT_X"}']}, "defaultAction"),
        ({"CapAdd": ["FLY"]}, 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ({"CapDrop": ["CAP_FLY"]}, 'invalid CapDrop: unknown capability: "CAP_FLY"'),
    ],
)
def test_refused(engine: RunningEngine, host: dict[str, Any], words: str) -> None:
    code, message = engine.message("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    assert (code, words in message) == (400, True), message


def test_a_seccomp_profile_of_ones_own(engine: RunningEngine, tmp_path: Path) -> None:
    """Docker's format: archMap, names and name, args, errnoRet, includes, excludes, minKernel."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"name": "rmdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 17, "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "3.0"}},
            {"names": ["link", "linkat"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]},
        ],
    }
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile))
    script = "mkdir /x; mkdir -p /tmp; rmdir /mnt && echo removed; chmod 700 /etc; touch /y; ln /y /z && echo linked; "
    script += "kill -12 1; kill -0 1 && echo killed"
    done = engine.docker("run", "--rm", "--security-opt", f"seccomp={file}", "busybox", "sh", "-c", script)
    assert b"No space left" in done.stderr, done
    assert done.stdout.split() in ([b"removed", b"linked", b"killed"], [b"linked", b"killed"]), done
    assert done.stderr.count(b"not permitted") == 2, done


def test_users(engine: RunningEngine) -> None:
    assert run(engine, "--user", "www-data", "busybox", "sh", "-c", "id -u; id -g; echo $HOME") == "33\n33\n/var/www"
    assert run(engine, "--user", "12:wheel", "busybox", "sh", "-c", "id -u; id -g; echo $HOME") == "12\n10\n/"
    assert (
        run(engine, "--user", "root", "--group-add", "adm", "--group-add", "777", "busybox", "id", "-G") == "0 4 10 777"
    )
    assert run(engine, "busybox", "id", "-G") == "0 4 10"
    assert "unable to find user nosuch: no matching entries in passwd file" in run(
        engine, "-u", "nosuch", "busybox", code=125
    )
    assert "unable to find group nosuch" in run(engine, "--group-add", "nosuch", "busybox", code=125)
    assert "uids and gids must be in range 0-2147483647" in run(engine, "--user", "2147483648", "busybox", code=125)


def test_the_working_directory_is_made(engine: RunningEngine) -> None:
    out = run(engine, "-u", "1000", "-w", "/new/place", "busybox", "sh", "-c", "pwd; stat -c '%u:%g %a' /new/place")
    assert out == "/new/place\n0:0 755"


@pytest.mark.parametrize(
    "name, words",
    [
        ("kernel.pid_max", 'sysctl "kernel.pid_max" is not in a separate kernel namespace'),
        ("kernel.hostname", 'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field'),
    ],
)
def test_sysctls_of_the_host(engine: RunningEngine, name: str, words: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"Sysctls": {name: "9"}}}
    id = engine.post("/containers/create", body, 201)["Id"]
    assert words in engine.message("POST", f"/containers/{id}/start")[1]


def test_network_sysctls_of_the_host(engine: RunningEngine) -> None:
    body = {"Image": "busybox", "HostConfig": {"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}}
    id = engine.post("/containers/create", body, 201)["Id"]
    message = engine.message("POST", f"/containers/{id}/start")[1]
    assert 'sysctl "net.ipv4.ip_forward" not allowed in host network namespace' in message


def test_writable_cgroups(engine: RunningEngine) -> None:
    make = (
        "busybox",
        "sh",
        "-c",
        "for d in /sys/fs/cgroup/pids /sys/fs/cgroup; do mkdir $d/own 2>/dev/null && exit; done; false",
    )
    run(engine, *make, code=1)
    run(engine, "--security-opt", "writable-cgroups=true", *make)

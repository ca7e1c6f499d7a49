"""One bundle, two runtimes: what a program sees under `python -m runtime oci` and under runc must be the same.

A test that passes on runc as well is a test of the specification, not of our reading of it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.bundles import BOB, make_rootfs, make_spec

OURS = [sys.executable, "-m", "runtime", "oci"]
RUNTIMES = {"wherry": OURS, "runc": ["runc"]}
ALIVE_TIMEOUT_S = 10.0
CGROUP = f"/wherry-test-{os.getpid()}"


class Runtime:
    """One of the two, with its state in a directory of the test's."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.command = [*RUNTIMES[name], "--root", str(directory / f"{name}-state")]
        self.bundle = directory / f"{name}-bundle"
        self.bundle.mkdir()
        make_rootfs(self.bundle / "rootfs")
        self.id = f"wherry-test-{name}-{os.getpid()}"

    def write(self, spec: dict[str, Any]) -> None:
        spec["linux"]["cgroupsPath"] = f"{CGROUP}/{self.id}"
        (self.bundle / "config.json").write_text(json.dumps(spec))

    def __call__(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *args], check=check, capture_output=True, text=True, timeout=60)

    def create(self) -> None:
        """Create the container; its output goes nowhere, for a pipe would have to be read to its end."""
        subprocess.run(
            [*self.command, "create", "--bundle", str(self.bundle), self.id],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def run(self, spec: dict[str, Any], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.write(spec)
        return self("run", "--bundle", str(self.bundle), self.id, check=check)

    def state(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self("state", self.id).stdout)
        return document


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    if request.param == "runc" and shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    runtime = Runtime(request.param, tmp_path)
    yield runtime
    runtime("delete", "--force", runtime.id, check=False)
    assert not list(Path("/sys/fs/cgroup").glob(f"**{CGROUP}/{runtime.id}"))
    for parent in Path("/sys/fs/cgroup").glob(f"*{CGROUP}"):
        parent.rmdir()


INSPECTIONS = {
    "identity": "id -u; id -g; grep -E '^(Groups|Cap|NoNew|Seccomp:)' /proc/self/status; umask; hostname; pwd",
    "environment": "env | sort",
    "descriptors": "ls /proc/self/fd",
    "processes": "echo $$; ls -d /proc/[0-9]*",
    "devices": "stat -c '%n %F %t:%T %a %u %g' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
    "device links": "for name in fd stdin stdout stderr ptmx core; do readlink /dev/$name; done",
    "masked and read-only": (
        "cat /proc/keys /proc/timer_list; ls /proc/acpi /sys/firmware; touch /proc/sys/x /sys/x /proc/bus/x 2>&1"
    ),
    "limits": "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj",
    "sysctl": "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    "cgroup": (
        # runc allowed /dev/net/tun (10:200) to everybody until 1.2.
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; cd /sys/fs/cgroup; cat pids/pids.max; "
        "sort devices/devices.list | grep -v 10:200"
    ),
    "cgroup is read-only": "mkdir /sys/fs/cgroup/pids/x 2>&1",
    "signals": "grep SigBlk /proc/self/status",  # runc passes on what its caller ignored; we do not
    "files": "ls -a /; stat -c '%n %a' /tmp /dev /dev/shm /proc /mnt/scratch",
    "mounts": (
        "while read -r _ _ _ _ point options rest; do echo $point $options ${rest##*- }; done < /proc/self/mountinfo"
        # Of what the two mount differently, on purpose: the root, masks (a tmpfs each), where cgroups come from.
        r" | grep -E '^/(proc|sys|dev|dev/pts|dev/shm|dev/mqueue|mnt/[a-z]+) ' | sort"
    ),
}


def inspected_spec(**process: Any) -> dict[str, Any]:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}]
    spec = make_spec(rlimits=limits, **process)
    spec["mounts"] += [
        {
            "destination": "/mnt/scratch",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "mode=1777", "size=1m"],
        },
        {"destination": "/mnt/bound", "type": "bind", "source": "/usr/share", "options": ["rbind", "ro", "nodev"]},
    ]
    spec["linux"]["resources"] = {"pids": {"limit": 99}, "devices": [{"allow": False, "access": "rwm"}]}
    return spec


@pytest.mark.parametrize("who", ["root", "bob"])
def test_the_inside_is_the_same(who: str, tmp_path: Path) -> None:
    if shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    user = {"uid": BOB, "gid": BOB, "additionalGids": [5]} if who == "bob" else {"uid": 0, "gid": 0}
    seen: dict[str, dict[str, str]] = {}
    for name in RUNTIMES:
        runtime = Runtime(name, tmp_path)
        script = "".join(f"echo '## {title}'; {command}\n" for title, command in INSPECTIONS.items())
        spec = inspected_spec(user=user)
        spec["process"]["args"] = ["sh", "-c", script]
        out = runtime.run(spec, check=False).stdout
        seen[name] = dict(part.split("\n", 1) for part in out.split("## ")[1:])
    for parent in Path("/sys/fs/cgroup").glob(f"*{CGROUP}"):
        parent.rmdir()
    for title in INSPECTIONS:
        assert seen["wherry"][title] == seen["runc"][title], title


def test_lifecycle(runtime: Runtime, tmp_path: Path) -> None:
    mark = runtime.bundle / "rootfs/tmp/ran"
    runtime.write(make_spec("sh", "-c", "echo > /tmp/ran; exec sleep 100"))
    runtime.create()
    state = runtime.state()
    assert (state["id"], state["status"], state["bundle"]) == (runtime.id, "created", str(runtime.bundle))
    assert not mark.exists()
    runtime("start", runtime.id)
    wait_until(mark.exists)
    state = runtime.state()
    assert state["status"] == "running"
    pidfd = os.pidfd_open(state["pid"])
    try:
        assert runtime("start", runtime.id, check=False).returncode != 0
        runtime("kill", runtime.id, "KILL")
        wait_until(lambda: runtime.state()["status"] == "stopped")
    finally:
        os.close(pidfd)
    assert runtime("kill", runtime.id, "KILL", check=False).returncode != 0
    runtime("delete", runtime.id)
    result = runtime("state", runtime.id, check=False)
    assert result.returncode != 0
    assert "does not exist" in result.stderr


def wait_until(condition: Any) -> None:
    """For what only the command line can tell: a state has no descriptor to wait for."""
    deadline = time.monotonic() + ALIVE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_exit_codes(runtime: Runtime) -> None:
    assert runtime.run(make_spec("sh", "-c", "exit 42"), check=False).returncode == 42
    assert runtime.run(make_spec("sh", "-c", "kill -9 $$"), check=False).returncode in (0, 137)
    assert runtime.run(make_spec("nope"), check=False).returncode != 0


def test_error_names_the_program(runtime: Runtime) -> None:
    # runc's lines are logfmt, with quotes inside quotes.
    said = runtime.run(make_spec("nope"), check=False).stderr.replace('\\"', '"')
    assert 'exec: "nope": executable file not found in $PATH' in said
    said = runtime.run(make_spec("/etc/passwd"), check=False).stderr.replace('\\"', '"')
    assert 'exec: "/etc/passwd": permission denied' in said


def test_an_id_is_used_once(runtime: Runtime) -> None:
    runtime.write(make_spec("sleep", "100"))
    runtime.create()
    result = runtime("create", "--bundle", str(runtime.bundle), runtime.id, check=False)
    assert result.returncode != 0
    assert runtime.state()["status"] == "created"


def test_exec(runtime: Runtime) -> None:
    runtime.write(make_spec("sleep", "100"))
    runtime.create()
    runtime("start", runtime.id)
    result = runtime(
        "exec", "--env", "A=b", "--cwd", "/tmp", runtime.id, "sh", "-c", "hostname; pwd; echo $A; exit 3", check=False
    )
    assert (result.returncode, result.stdout.split()) == (3, ["box", "/tmp", "b"])
    result = runtime("exec", "--user", "1000:1000", runtime.id, "id", "-u")
    assert result.stdout == "1000\n"


HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def test_hooks(runtime: Runtime) -> None:
    log = runtime.bundle / "rootfs/tmp/hooks"
    spec = make_spec("true")
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "cgroup"]
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    del spec["linux"]["seccomp"]
    # startContainer runs inside, all others outside; each is given the state on its input.
    spec["hooks"] = {
        name: [
            {
                "path": "/bin/sh",
                "args": [
                    "sh",
                    "-c",
                    f"read -r state; echo {name} >> {'/tmp/hooks' if name == 'startContainer' else log}",
                ],
                "env": ["PATH=/bin:/usr/bin"],
                "timeout": 10,
            }
        ]
        for name in HOOKS
    }
    runtime.run(spec)
    ran = log.read_text().split()
    # startContainer and poststart are run by two processes, neither of which waits for the other.
    assert sorted(ran) == sorted(HOOKS)
    assert ran[:3] == list(HOOKS[:3])
    assert ran[-1] == "poststop"


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_stops_the_start(runtime: Runtime, name: str) -> None:
    mark = runtime.bundle / "rootfs/tmp/ran"
    spec = make_spec("touch", "/tmp/ran")
    spec["hooks"] = {name: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 7"]}]}
    assert runtime.run(spec, check=False).returncode != 0
    assert not mark.exists()


def test_pid_file_and_detached_run(runtime: Runtime, tmp_path: Path) -> None:
    runtime.write(make_spec("sleep", "100"))
    pid_file = tmp_path / "pid"
    subprocess.run(
        [*runtime.command, "run", "--detach", "--bundle", str(runtime.bundle), "--pid-file", str(pid_file), runtime.id],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    assert int(pid_file.read_text()) == runtime.state()["pid"]
    runtime("kill", runtime.id, "KILL")


def test_console_socket(runtime: Runtime, tmp_path: Path) -> None:
    runtime.write(make_spec("sh", "-c", "tty; stty size", terminal=True, consoleSize={"height": 12, "width": 34}))
    path = str(tmp_path / "console")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        subprocess.run(
            [*runtime.command, "create", "--bundle", str(runtime.bundle), "--console-socket", path, runtime.id],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        connection, _ = listener.accept()
        with connection:
            _, [master], _, _ = socket.recv_fds(connection, 100, 1)
    try:
        runtime("start", runtime.id)
        text = b""
        while text.count(b"\n") < 2:
            text += os.read(master, 1000)
    finally:
        os.close(master)
    lines = text.decode().split("\r\n")
    assert lines[0] in ("/dev/pts/0", "/dev/console")
    assert lines[1] == "12 34"


def test_signal_to_a_foreground_run(runtime: Runtime) -> None:
    runtime.write(make_spec("sh", "-c", "trap 'exit 6' TERM; echo up; while true; do sleep 0.01; done"))
    command = [*runtime.command, "run", "--bundle", str(runtime.bundle), runtime.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 6

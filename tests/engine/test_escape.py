"""What must fail: known ways out of a container, tried from a default one (root, no options)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.images import busybox_image_tar, symlink
from tests.harness import RunningEngine

PYTHON = Path("/usr/bin/python3")
HOST_LIBRARIES = [f"-v={path}:{path}:ro" for path in ("/usr", "/lib", "/lib64") if Path(path).exists()]

needs_python = pytest.mark.skipif(
    not PYTHON.exists() or os.uname().machine != "x86_64", reason="calls the kernel through the host's Python, x86-64"
)

# Calls each system call with arguments that would succeed, or fail otherwise, if it were let through.
PROBE = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return 0 if result >= 0 else ctypes.get_errno()
buffer = ctypes.create_string_buffer(256)
print(json.dumps({
    "mount": call(165, b"none", b"/mnt", b"tmpfs", 0, 0),
    "umount": call(166, b"/proc", 2),
    "pivot_root": call(155, b"/", b"/"),
    "unshare user": call(272, 0x10000000),
    "unshare mount": call(272, 0x20000),
    "setns": call(308, 0, 0),
    "clone user": call(56, 0x10000011, 0, 0, 0, 0),
    "clone3": call(435, buffer, 88),
    "bpf": call(321, 5, buffer, 48),
    "keyctl": call(250, 0, -3, 0),
    "add_key": call(248, b"user", b"x", b"y", 1, -3),
    "userfaultfd": call(323, 0),
    "io_uring_setup": call(425, 1, buffer),
    "perf_event_open": call(298, buffer, 0, -1, -1, 0),
    "open_by_handle_at": call(304, 3, buffer, 0),
    "init_module": call(175, buffer, 1, b""),
    "kexec_load": call(246, 0, 0, 0, 0),
    "reboot": call(169, 0, 0, 0, 0),
    "swapon": call(167, b"/x", 0),
    "settimeofday": call(164, buffer, 0),
    "fsopen": call(430, b"tmpfs", 0),
    "move_mount": call(429, 0, b"", 0, b"", 0),
    "ptrace init": call(101, 16, 1, 0, 0) if os.getpid() != 1 else 0,
}))
"""
ALLOWED: dict[str, int] = {"ptrace init": 0}  # its own processes it may trace, on kernels from 4.8


@needs_python
def test_system_calls(engine: RunningEngine) -> None:
    done = engine.docker("run", "--rm", *HOST_LIBRARIES, "busybox", str(PYTHON), "-c", PROBE)
    assert done.returncode == 0, done
    answers = json.loads(done.stdout)
    let_through = {
        name: errno.errorcode.get(code, code)
        for name, code in answers.items()
        if name not in ALLOWED and code not in (errno.EPERM, errno.ENOSYS)
    }
    assert let_through == {}


KEYRING = """
import ctypes
libc = ctypes.CDLL(None)
text = ctypes.create_string_buffer(256)
libc.syscall(250, ctypes.c_long(6), ctypes.c_long(-3), text, ctypes.c_long(256))
print(text.value.decode())
"""


@needs_python
def test_the_session_keyring_is_its_own(engine: RunningEngine) -> None:
    """As runc: a keyring named after the container, not the one the engine was started with."""
    options = ("--cidfile", str(engine.run_dir / "cid"), "--security-opt", "seccomp=unconfined", *HOST_LIBRARIES)
    done = engine.docker("run", "--rm", *options, "busybox", str(PYTHON), "-c", KEYRING)
    assert done.stdout.decode().strip().endswith((engine.run_dir / "cid").read_text()), done


FILES = [
    ("echo h > /proc/sysrq-trigger", "Read-only|nonexistent"),
    ("echo '|/x' > /proc/sys/kernel/core_pattern", "Read-only"),
    ("echo 1 > /proc/sys/vm/drop_caches", "Read-only"),
    ("echo 0 > /sys/kernel/mm/ksm/run", "Read-only|nonexistent"),
    ("mknod /tmp/disk b 254 0 && head -c1 /tmp/disk", "Operation not permitted"),
    ("mknod /tmp/mem c 1 1 && head -c1 /tmp/mem", "Operation not permitted"),
    ("mkdir /tmp/c && mount -t cgroup -o rdma cgroup /tmp/c", "denied|not permitted"),
    ("mount -o remount,rw /sys", "denied|not permitted"),
    ("mount -t proc proc /mnt", "denied|not permitted"),
    ("unshare -Ur true", "not permitted"),
    ("for f in /sys/fs/cgroup/*/devices.allow /sys/fs/cgroup/*.max; do echo a > $f; done", "Read-only|nonexistent"),
    ("find /sys/fs/cgroup -name release_agent | grep . && echo found >&2; false", ""),
    ("cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts | grep . ; false", ""),
    ("ls /sys/firmware /proc/acpi /proc/scsi /sys/devices/virtual/powercap | grep -v : | grep . ; false", ""),
    ("dmesg", "not permitted"),
    ("hostname other", "not permitted"),
    ("nsenter -t 1 -m true", "not permitted"),
]


def test_files_and_devices(engine: RunningEngine) -> None:
    engine.docker("run", "-d", "--name", "jail", "busybox", "sleep", "100")
    for script, words in FILES:
        done = engine.docker("exec", "jail", "sh", "-c", script)
        output = (done.stdout + done.stderr).decode()
        assert done.returncode != 0, (script, done)
        assert any(word in output for word in words.split("|")), (script, done)
        assert words or not done.stdout, (script, done)


@pytest.mark.parametrize("fd", [3, 5, 6, 7, 8, 9, 12])
def test_leaked_working_directory(engine: RunningEngine, fd: int) -> None:
    """CVE-2024-21626: a descriptor of the host's as the working directory."""
    done = engine.docker(
        "run", "--rm", "-w", f"/proc/self/fd/{fd}", "busybox", "sh", "-c", "cat ../../../../etc/shadow"
    )
    assert done.returncode != 0 and b"root:" not in done.stdout, done


def test_no_descriptor_of_ours(engine: RunningEngine) -> None:
    engine.docker("run", "-d", "--name", "idle", "busybox", "sleep", "100")
    done = engine.docker("exec", "idle", "ls", "/proc/1/fd", "/proc/self/fd")
    # 3 is the directory that ls reads.
    assert done.stdout.split() == [b"/proc/1/fd:", b"0", b"1", b"2", b"/proc/self/fd:", b"0", b"1", b"2", b"3"], done


def test_the_interpreter_cannot_be_written(engine: RunningEngine) -> None:
    """CVE-2019-5736, by exec into a container that waits for our process to show in its /proc."""
    interpreter = Path(sys.executable).resolve()
    before = hashlib.sha256(interpreter.read_bytes()).hexdigest()
    attack = """
    echo ready
    while :; do for exe in /proc/[0-9]*/exe; do
      case $(readlink $exe) in */python*) (echo x >> $exe) 2>/dev/null && echo WRITTEN; echo seen;; esac
    done; done"""
    engine.docker("run", "-d", "--name", "trap", "busybox", "sh", "-c", attack)
    for _ in range(5):
        engine.docker("exec", "trap", "true")
    assert b"WRITTEN" not in engine.docker("logs", "trap").stdout
    assert hashlib.sha256(interpreter.read_bytes()).hexdigest() == before


@pytest.fixture
def trapped_image(engine: RunningEngine, tmp_path: Path) -> Iterator[str]:
    links = [
        symlink("exe", "/proc/self/exe"),
        symlink("work", "../../../../../../tmp/wherry-escaped"),
        symlink("etc/hosts", "/../../../../tmp/wherry-escaped-hosts"),
    ]
    archive = busybox_image_tar(tmp_path / "trap.tar", "trapped:latest", extra=links)
    engine.load(archive)
    yield "trapped"
    engine.request("DELETE", "/images/trapped?force=1")


def test_links_of_the_image_stay_inside(engine: RunningEngine, trapped_image: str) -> None:
    interpreter = Path(sys.executable).resolve()
    before = interpreter.stat()
    assert engine.docker("run", "--rm", trapped_image, "/exe", "-c", "print('out')").stdout != b"out\n"
    after = interpreter.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    done = engine.docker("run", "--rm", "-w", "/work", trapped_image, "pwd")
    assert done.stdout == b"/tmp/wherry-escaped\n", done
    assert not list(Path("/tmp").glob("wherry-escaped*"))


def test_null_replaced_by_a_mount(engine: RunningEngine, tmp_path: Path) -> None:
    """CVE-2025-31133: what is masked with must be the null device."""
    (tmp_path / "null").write_text("not the null device")
    done = engine.docker("run", "--rm", "-v", f"{tmp_path}/null:/dev/null", "busybox", "cat", "/proc/keys")
    assert done.returncode != 0 or done.stdout == b"", done
    console = tmp_path / "dev"
    console.mkdir()
    (console / "console").symlink_to("/proc/sys/kernel/core_pattern")
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    # CVE-2025-52565: the console is mounted onto what the link points to, inside the container, or not at all.
    script = ["script", "-qec", f"docker run --rm -t -v {console}:/dev/x busybox true", "/dev/null"]
    environment = {**os.environ, "DOCKER_HOST": engine.host}
    subprocess.run(script, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before

"""The ways taken on kernels (or under filters) without the newer calls, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

CLONE = """
import os
from runtime.linux import process, syscalls
syscalls.CLONE3 = 100000  # no kernel has this one: ENOSYS
pid, pidfd = process.clone3(0x20000000)  # CLONE_NEWPID
if pid == 0:
    os._exit(40 + os.getpid())
result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
assert (result.si_pid, result.si_status) == (pid, 41), result
try:
    process.clone3(0x80)  # CLONE_NEWTIME: a signal number to clone(2)
except OSError as error:
    assert error.errno == 38, error
else:
    raise SystemExit("CLONE_NEWTIME went unnoticed")
"""

OVERLAY = """
import os, sys
from runtime.container.op import Init, Refused
from runtime.container.ops_mount import IsolateMounts, MountOverlayRoot
from runtime.linux import mounts, namespaces, syscalls
namespaces.unshare(namespaces.CLONE_NEWNS)
init = Init(None, {})
IsolateMounts(mounts.MS_PRIVATE).apply(init)
syscalls.FSOPEN = 100000
base = sys.argv[1]
for name in ("a", "b", "upper", "work"):
    os.mkdir(f"{base}/{name}")
open(f"{base}/a/top", "w").close()
open(f"{base}/b/bottom", "w").close()
MountOverlayRoot([f"{base}/a", f"{base}/b"], f"{base}/upper", f"{base}/work", f"{base}/root").apply(init)
assert sorted(os.listdir(f"/proc/self/fd/{init.root}")) == ["bottom", "top"]
try:
    MountOverlayRoot([f"{base}/a"] * 2000, None, None, f"{base}/root").apply(init)
except Refused as refusal:
    assert "2000 layers" in str(refusal)
else:
    raise SystemExit("2000 layers in one page")
"""


def run(program: str, *args: str) -> None:
    subprocess.run([sys.executable, "-c", program, *args], check=True, timeout=30)


def test_clone_without_clone3() -> None:
    run(CLONE)


def test_overlay_by_path(tmp_path: Path) -> None:
    run(OVERLAY, str(tmp_path))
    assert list((tmp_path / "root").iterdir()) == []

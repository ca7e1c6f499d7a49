"""Kernel settings below /proc/sys/net, which shows the network namespace of the thread that opens it."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/proc/sys/net")


def read_sysctl(path: str) -> str:
    """`path` with slashes, relative to net: "ipv4/ip_forward"."""
    return (_ROOT / path).read_text().strip()


def write_sysctl(path: str, value: int) -> None:
    """Leaves alone what has the value already."""
    if read_sysctl(path) != str(value):
        (_ROOT / path).write_text(str(value))


def has_ipv6() -> bool:
    return (_ROOT / "ipv6").exists()


def interfaces_with_sysctls(version: str) -> list[str]:
    """The interfaces below ipv4/conf or ipv6/conf, with "all" and "default", which stand for others."""
    return os.listdir(_ROOT / version / "conf")

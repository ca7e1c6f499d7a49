"""Which process has a port of this host: for the sentence that says a port is taken, and only then."""

from __future__ import annotations

import os
from pathlib import Path

_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTENING = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN, and TCP_CLOSE for a UDP socket (net/tcp_states.h)


def owner_of_port(protocol: str, port: int) -> str | None:
    """`nginx (pid 123)`; None if it cannot be known. Looks through all processes."""
    inodes = {inode for table in _TABLES.get(protocol, ()) for inode in _inodes(table, protocol, port)}
    return _holder({f"socket:[{inode}]" for inode in inodes}) if inodes else None


def _inodes(table: str, protocol: str, port: int) -> list[str]:
    """proc_net_tcp(5): local address and port in hexadecimal, state, ..., inode."""
    try:
        lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return []
    found = []
    for line in lines:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == port and words[3] == _LISTENING[protocol]:
            found.append(words[9])
    return found


def _holder(sockets: set[str]) -> str | None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for fd in os.listdir(process / "fd"):
                if os.readlink(process / "fd" / fd) in sockets:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # it has ended meanwhile, or is not ours to look at
            continue
    return None

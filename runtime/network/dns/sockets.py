"""The container's side of its name server: sockets within its network namespace, and the rules that lead to them.

The sockets have ports the kernel chose, and rules send 127.0.0.11:53 there: so a container may itself bind port 53 of
every address. The rules are also the record of the ports: an engine that comes back reads them and binds the same.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from runtime.linux.namespaces import CLONE_NEWNET, setns
from runtime.linux.nftables import Nftables

RESOLVER_ADDRESS = "127.0.0.11"

_TABLE_NAME = "wherry_dns"
_BACKLOG = 64
_Result = TypeVar("_Result")

# "Delete if it exists", in one transaction with what comes behind. The kernel waits some 10 ms after a deletion.
_DELETION = """\
table ip {table}
delete table ip {table}
"""
_TABLE = """\
table ip {table} {{
    chain questions {{
        type nat hook output priority -100; policy accept;
        ip daddr {address} udp dport 53 dnat to {address}:{udp_port}
        ip daddr {address} tcp dport 53 dnat to {address}:{tcp_port}
    }}
}}
"""
_RULE = re.compile(rf"(udp|tcp) dport 53 dnat to {re.escape(RESOLVER_ADDRESS)}:(\d+)")


@dataclass(frozen=True, slots=True)
class ServerSockets:
    """Not blocking; the TCP one listens."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


class NamespaceThread:
    """One thread that steps into a network namespace, does something there, and steps out again.

    A socket stays in the namespace it was made in, so that is all that must happen there.
    """

    def __init__(self) -> None:
        self._home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wherry-netns")

    async def run(self, netns_fd: int, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._within, netns_fd, work)

    def close(self) -> None:
        self._executor.shutdown()
        if self._home_fd >= 0:
            os.close(self._home_fd)
            self._home_fd = -1

    def _within(self, netns_fd: int, work: Callable[[], _Result]) -> _Result:
        setns(netns_fd, CLONE_NEWNET)
        try:
            return work()
        finally:
            setns(self._home_fd, CLONE_NEWNET)


def open_server_sockets() -> ServerSockets:
    """For a new namespace; call it within. Raises OSError."""
    with ExitStack() as undo, Nftables() as nftables:
        sockets = _bind(0, 0)
        undo.callback(sockets.close)
        _lead_to(sockets, nftables, _TABLE)
        undo.pop_all()
    return sockets


def reopen_server_sockets() -> ServerSockets:
    """For a namespace that may have had them: on the same ports, unless someone took those. Raises OSError."""
    with ExitStack() as undo, Nftables() as nftables:
        ports = _ports_in_rules(nftables)
        try:
            sockets = _bind(ports.get("udp", 0), ports.get("tcp", 0))
        except OSError:
            ports, sockets = {}, _bind(0, 0)
        undo.callback(sockets.close)
        if len(ports) != 2:
            _lead_to(sockets, nftables, _DELETION + _TABLE)
        undo.pop_all()
    return sockets


def _ports_in_rules(nftables: Nftables) -> dict[str, int]:
    try:
        listed = nftables.run(f"list table ip {_TABLE_NAME}")
    except OSError:  # no such table
        return {}
    return {protocol: int(port) for protocol, port in _RULE.findall(listed)}


def _bind(udp_port: int, tcp_port: int) -> ServerSockets:
    with ExitStack() as undo:
        udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        udp.bind((RESOLVER_ADDRESS, udp_port))
        tcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        # Connections of the server before this one may linger in TIME_WAIT.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((RESOLVER_ADDRESS, tcp_port))
        tcp.listen(_BACKLOG)
        undo.pop_all()
    return ServerSockets(udp, tcp)


def _lead_to(sockets: ServerSockets, nftables: Nftables, rules: str) -> None:
    udp_port, tcp_port = sockets.udp.getsockname()[1], sockets.tcp.getsockname()[1]
    nftables.run(rules.format(table=_TABLE_NAME, address=RESOLVER_ADDRESS, udp_port=udp_port, tcp_port=tcp_port))

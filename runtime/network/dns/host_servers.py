"""The host's name servers, as its resolv.conf(5) says at the moment."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
MAX_SERVERS = 3  # MAXNS of resolv.h, and Docker's own


@dataclass(frozen=True, slots=True)
class Upstream:
    """A name server: an address, perhaps with a scope (`fe80::1%eth0`), and from where to ask it.

    The host's own loopback (as systemd-resolved's 127.0.0.53) and IPv6 servers are asked from the host's network, since
    containers may have no way there; others from the container's, where they see the container's routes.
    """

    address: str
    from_host: bool


class HostServers:
    """Reads the file again when it has changed: a laptop changes networks, a VPN comes and goes."""

    def __init__(self, path: Path = HOST_RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._servers: tuple[Upstream, ...] = ()

    def current(self) -> tuple[Upstream, ...]:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._servers = parse_host_servers(self._path.read_text(errors="replace"))
                self._seen = seen
        except OSError:
            self._seen, self._servers = None, ()
        return self._servers


def parse_host_servers(text: str) -> tuple[Upstream, ...]:
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        found.append(Upstream(words[1], address.is_loopback or address.version == 6))
    return tuple(found[:MAX_SERVERS])


def asked_servers(addresses: tuple[str, ...]) -> tuple[Upstream, ...]:
    """A container's own `--dns`: loopback addresses among them are the container's."""
    return tuple(Upstream(address, _is_ipv6_beyond_loopback(address)) for address in addresses[:MAX_SERVERS])


def _is_ipv6_beyond_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.version == 6 and not parsed.is_loopback

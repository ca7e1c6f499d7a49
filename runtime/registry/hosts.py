"""Which addresses stand for a registry, and how far they are trusted.

As dockerd has it: docker.io has mirrors, a registry on this machine or in `insecure` may use a certificate nobody
knows or plain HTTP, and <certs.d>/HOST[:PORT]/ holds *.crt authorities and *.cert + *.key of the client.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from runtime.errors import InvalidParameter
from runtime.oci.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"
HUB_NAMES = ("", DEFAULT_DOMAIN, "index.docker.io", HUB)
LOOPBACK = ("127.0.0.0/8", "::1/128")
_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?")


@dataclass(frozen=True)
class RegistrySettings:
    """`mirrors`: URLs asked before docker.io; `insecure`: hosts (with port) and networks (CIDR)."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = (Path("/etc/docker/certs.d"), Path("/etc/wherry/certs.d"))
    connect_timeout_s: float = 10
    read_timeout_s: float = 30
    retry_delay_s: float = 0.5  # doubled after every further failure

    def is_insecure(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or host in self.insecure or name in self.insecure:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return any(address in network for network in map(_network, (*LOOPBACK, *self.insecure)) if network)

    def endpoints(self, domain: str, pulling: bool = True) -> list[Endpoint]:
        """Where to ask for a repository of `domain`, the best first."""
        host = HUB if domain == DEFAULT_DOMAIN else domain
        found = [*self._of_host(host)]
        if pulling and domain == DEFAULT_DOMAIN:
            found = [endpoint for mirror in self.mirrors for endpoint in self._of_mirror(mirror)] + found
        return found

    def _of_host(self, host: str) -> list[Endpoint]:
        insecure = self.is_insecure(host)
        directories = tuple(directory / host for directory in self.certificates)
        endpoints = [Endpoint(f"https://{host}", host, not insecure, directories)]
        return [*endpoints, Endpoint(f"http://{host}", host, False)] if insecure else endpoints

    def _of_mirror(self, mirror: str) -> list[Endpoint]:
        url = urlsplit(mirror if "://" in mirror else f"https://{mirror}")
        if url.scheme == "http":
            return [Endpoint(f"http://{url.netloc}", url.netloc, False, is_mirror=True)]
        directories = tuple(directory / url.netloc for directory in self.certificates)
        verify = not self.is_insecure(url.netloc)
        return [Endpoint(f"https://{url.netloc}", url.netloc, verify, directories, is_mirror=True)]


@dataclass(frozen=True)
class Endpoint:
    """One way to a registry: `url` has no path. Mirrors never see the user's credentials."""

    url: str
    host: str
    verify: bool
    certificates: tuple[Path, ...] = field(default=())
    is_mirror: bool = False


def is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def host_of(address: str) -> str:
    """The host of what a person logs in to: a name, or a URL. Raises InvalidParameter."""
    host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    if host in HUB_NAMES:
        return HUB
    if not _HOST.fullmatch(host):
        raise InvalidParameter(f"invalid registry address {address!r}: give a host name, and a port if it needs one")
    return host


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None

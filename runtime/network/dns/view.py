"""What one container is answered: the names on its networks, those of its host, and whether to ask further.

Follows Docker's embedded server: names, aliases and `name.network` on the container's own networks only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from runtime.network.dns.message import AAAA, ANY, NOERROR, NXDOMAIN, PTR, A, Answer, Query
from runtime.network.dns.names import Address, NameTable

TTL_S = 600
# Docker Desktop's names for the computer the engine runs on, and for the network's gateway.
HOST_NAME, GATEWAY_NAME = "host.docker.internal", "gateway.docker.internal"

_IPV4_SUFFIX, _IPV6_SUFFIX = ".in-addr.arpa", ".ip6.arpa"


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network the container is on; `links` are names that only it uses, for names on the network (in lower case)."""

    id: str
    name: str
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """`servers` are `--dns`, () for the host's. `host` and `gateway` are what HOST_NAME and GATEWAY_NAME mean.

    `forwards` is False where all networks are internal: nothing beyond them is reached, names neither.
    `ndots_set`: the container's resolv.conf has an `ndots` above 0, so a single label is only ever the beginning of a
    name, and the container will ask again with its search domains.
    """

    networks: tuple[NetworkView, ...]
    forwards: bool = True
    servers: tuple[str, ...] = ()
    ndots_set: bool = False
    host: tuple[Address, ...] = ()
    gateway: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Local:
    """An answer that needs nobody else."""

    rcode: int = NOERROR
    answers: tuple[Answer, ...] = ()


def answer_locally(query: Query, view: View, table: NameTable) -> Local | None:
    """None for a question to forward."""
    local = _answer_address(query.text, view, table) if query.type == PTR else _answer_name(query, view, table)
    if local is None and view.ndots_set and query.type in (A, AAAA) and len(query.name) == 1:
        return Local()
    return local


def _answer_name(query: Query, view: View, table: NameTable) -> Local | None:
    known = _find(query.text, view, table)
    if known is None:
        return None
    versions = {A: (4,), AAAA: (6,), ANY: (4, 6)}.get(query.type, ())
    matching = [address for address in known if address.version in versions]
    random.shuffle(matching)
    return Local(answers=tuple(map(Answer, matching)))


def _find(text: str, view: View, table: NameTable) -> Sequence[Address] | None:
    """A name on any of the networks first, then as `name.network`, where either may have dots."""
    for network in view.networks:
        if (found := _on_network(text, network, table)) is not None:
            return found
    for network in view.networks:
        name = text.removesuffix(f".{network.name.lower()}")
        if name != text and (found := _on_network(name, network, table)) is not None:
            return found
    return {HOST_NAME: view.host, GATEWAY_NAME: view.gateway}.get(text) or None


def _on_network(name: str, network: NetworkView, table: NameTable) -> Sequence[Address] | None:
    linked = table.addresses(network.id, network.links.get(name, ""))
    return table.addresses(network.id, name) if linked is None else linked


def _answer_address(text: str, view: View, table: NameTable) -> Local | None:
    address = _reversed(text)
    if address is None:
        return None
    for network in view.networks:
        if name := table.name(network.id, address):
            return Local(answers=(Answer(f"{name}.{network.name}"),))
    return None if view.forwards else Local(NXDOMAIN)


def _reversed(text: str) -> Address | None:
    try:
        if text.endswith(_IPV4_SUFFIX):
            return IPv4Address(".".join(reversed(text.removesuffix(_IPV4_SUFFIX).split("."))))
        if text.endswith(_IPV6_SUFFIX):
            digits = text.removesuffix(_IPV6_SUFFIX).split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return IPv6Address(bytes.fromhex("".join(reversed(digits))))
    except ValueError:
        pass
    return None

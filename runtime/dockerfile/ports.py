"""EXPOSE's ports."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import InvalidParameter

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_PROTOCOLS = ("tcp", "udp", "sctp")
_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class ExposedWord:
    """One word of EXPOSE: `[ip:][host:]container[/protocol]`. Docker ignores what stands before the container's."""

    published_to: str
    ports: str
    protocol: str


def split(word: str) -> ExposedWord:
    """Without any check."""
    published_to, _, rest = word.rpartition(":")
    ports, _, protocol = rest.partition("/")
    return ExposedWord(published_to, ports, protocol)


def exposed_ports(words: Iterable[str]) -> list[str]:
    """`80 8000-8001/udp` as `80/tcp`, `8000/udp`, `8001/udp`, without repetitions. Raises InvalidParameter."""
    found: dict[str, None] = {}
    for word in words:
        exposed = split(word)
        protocol = exposed.protocol.lower() or "tcp"
        if protocol not in _PROTOCOLS:
            raise InvalidParameter(f'invalid port: "{word}": invalid proto: {exposed.protocol}')
        match = _PORTS.fullmatch(exposed.ports)
        first = int(match[1]) if match else -1
        last = int(match[2]) if match and match[2] else first
        if match is None or not 0 <= first <= last <= _PORT_MAX:
            raise InvalidParameter(f"invalid containerPort: {exposed.ports}")
        found.update(dict.fromkeys(f"{port}/{protocol}" for port in range(first, last + 1)))
    return list(found)

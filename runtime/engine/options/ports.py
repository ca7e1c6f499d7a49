"""Published ports: `-p`, `-P` and EXPOSE."""

from __future__ import annotations

from runtime.engine.options.fields import ip
from runtime.engine.options.model import Document, PortRequest
from runtime.errors import InvalidParameter


def ports(config: Document, host: Document, image: Document) -> list[PortRequest]:
    requests = []
    for key, bindings in (host.get("PortBindings") or {}).items():
        port, protocol = parse_port(key)
        for binding in bindings or [{}]:
            address = binding.get("HostIp") or ""
            first, last = _host_ports(binding.get("HostPort") or "")
            requests.append(PortRequest(port, protocol, ip("-p", address) if address else "", first, last))
    if host.get("PublishAllPorts"):
        exposed = {*(image.get("ExposedPorts") or {}), *(config.get("ExposedPorts") or {})}
        published = {(request.container_port, request.protocol) for request in requests}
        requests += [PortRequest(*key) for key in sorted(map(parse_port, exposed)) if key not in published]
    return requests


def parse_port(text: str) -> tuple[int, str]:
    """`80/tcp` or `80` → (80, "tcp"); raises InvalidParameter."""
    number, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid port {text!r}: the protocol must be tcp, udp or sctp")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidParameter(f"invalid port {text!r}: a number from 1 to 65535 is needed")
    return int(number), protocol


def _host_ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        numbers = int(first or 0), int(last or first or 0)
    except ValueError:
        raise InvalidParameter(f"invalid hostPort: {text}") from None
    if not 0 <= numbers[0] <= numbers[1] < 65536:
        raise InvalidParameter(f"invalid hostPort: {text}: ports go from 1 to 65535")
    return numbers

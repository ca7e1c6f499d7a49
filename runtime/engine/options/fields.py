"""Single fields of a document, checked."""

from __future__ import annotations

import ipaddress

from runtime.engine.options.model import Document
from runtime.errors import InvalidParameter


def ip(option: str, address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise InvalidParameter(f"{option} {address!r} is not an IP address") from None


def amount(host: Document, name: str, option: str) -> int:
    value = host.get(name) or 0
    if not isinstance(value, int) or value < 0:
        raise InvalidParameter(f"invalid {option} ({name}): {value!r} is not a whole number of 0 or more")
    return value

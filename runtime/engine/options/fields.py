"""Single fields of a document, checked."""

from __future__ import annotations

import ipaddress

from runtime.engine.options.model import Document
from runtime.errors import InvalidParameter, NotSupported


def ip(option: str, address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise InvalidParameter(f"{option} {address!r} is not an IP address") from None


def own_or(name: str, option: str, host: Document, allowed: tuple[str, ...]) -> str:
    mode = host.get(name) or ""
    if mode not in allowed:
        raise NotSupported(f"{option} {mode} is not supported by this version of Wherry: use {allowed[1:]}")
    return str(mode)


def amount(host: Document, name: str, option: str) -> int:
    value = host.get(name) or 0
    if not isinstance(value, int) or value < 0:
        raise InvalidParameter(f"invalid {option} ({name}): {value!r} is not a whole number of 0 or more")
    return value

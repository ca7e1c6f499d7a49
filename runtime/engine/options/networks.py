"""Endpoints as clients ask for them: EndpointSettings of `docker create` and `docker network connect`."""

from __future__ import annotations

import ipaddress
from typing import Any

from runtime.engine.options.model import Document, EndpointConfig
from runtime.errors import InvalidParameter

DEFAULT_NETWORK = "bridge"
CONTAINER_MODE = "container:"


def endpoint_config(settings: Document | None) -> EndpointConfig:
    """Reads an EndpointSettings document; raises InvalidParameter."""
    settings = settings or {}
    ipam = settings.get("IPAMConfig") or {}
    return EndpointConfig(
        aliases=tuple(dict.fromkeys(settings.get("Aliases") or [])),
        links=tuple(settings.get("Links") or []),
        ipv4=_address(ipam.get("IPv4Address") or "", 4),
        ipv6=_address(ipam.get("IPv6Address") or "", 6),
        link_local=tuple(ipam.get("LinkLocalIPs") or []),
        mac_address=(settings.get("MacAddress") or "").lower(),
        driver_opts={str(name): str(value) for name, value in (settings.get("DriverOpts") or {}).items()},
        gw_priority=_priority(settings.get("GwPriority") or 0),
    )


def _address(text: str, version: int) -> str:
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version:
        raise InvalidParameter(f"invalid endpoint settings: invalid IPv{version} address: {text}")
    return str(address)


def _priority(value: Any) -> int:
    if not isinstance(value, int):
        raise InvalidParameter(f"invalid endpoint settings: invalid GwPriority: {value!r} is not a whole number")
    return value


def network_mode(host: Document) -> str:
    """HostConfig.NetworkMode: a network's name or id, `host`, `none` or `container:NAME`."""
    mode = str(host.get("NetworkMode") or "default")
    return DEFAULT_NETWORK if mode == "default" else mode


def endpoints(config: Document, networking: Document, mode: str) -> dict[str, EndpointConfig]:
    """By the network's name or id as the client wrote it, the one of the network mode first."""
    given = networking.get("EndpointsConfig") or {}
    if not isinstance(given, dict):
        raise InvalidParameter("invalid NetworkingConfig: EndpointsConfig must be an object")
    own_mac = config.get("MacAddress") or ""
    if mode.startswith(CONTAINER_MODE):
        if given:
            raise InvalidParameter("conflicting options: cannot attach both user-defined and container network-modes")
        return {}
    named = {DEFAULT_NETWORK if name == "default" else name: settings for name, settings in given.items()}
    main = dict(named.pop(mode, None) or {})
    if own_mac and (main.get("MacAddress") or own_mac).lower() != own_mac.lower():
        raise InvalidParameter(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
            "or be left empty"
        )
    main["MacAddress"] = main.get("MacAddress") or own_mac
    return {mode: endpoint_config(main)} | {name: endpoint_config(settings) for name, settings in named.items()}

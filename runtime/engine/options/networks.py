"""Networks and endpoints as clients ask for them.

NetworkCreateRequest of `docker network create`, EndpointSettings of `docker create` and `docker network connect`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from runtime.engine.options.model import Document, EndpointConfig
from runtime.engine.options.namespaces import CONTAINER_PREFIX
from runtime.errors import InvalidParameter
from runtime.linux.netlink import IpAddress, IpNetwork

DEFAULT_NETWORK = "bridge"


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
        ipam=settings.get("IPAMConfig"),
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


def check_mode(config: Document, host: Document, mode: str) -> None:
    """What another container's, or the host's, network cannot be given. Raises InvalidParameter, in Docker's words."""
    undefined = "can't be used with links. This would result in undefined behavior"
    if mode == "host" and host.get("Links"):
        raise InvalidParameter(f"conflicting options: host type networking {undefined}")
    if not mode.startswith(CONTAINER_PREFIX):
        return
    if mode == CONTAINER_PREFIX:
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    for conflict, given in (
        ("hostname and the network mode", config.get("Hostname")),
        (f"container type network {undefined}", host.get("Links")),
        ("dns and the network mode", host.get("Dns")),
        ("custom host-to-IP mapping and the network mode", host.get("ExtraHosts")),
        ("mac-address and the network mode", config.get("MacAddress")),
        (
            "port publishing and the container type network mode",
            host.get("PortBindings") or host.get("PublishAllPorts"),
        ),
        ("port exposing and the container type network mode", config.get("ExposedPorts")),
    ):
        if given:
            raise InvalidParameter(f"conflicting options: {conflict}")


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
    if mode.startswith(CONTAINER_PREFIX):
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


@dataclass(frozen=True)
class SubnetRequest:
    """One --subnet with what belongs to it. The IP versions of all its parts agree."""

    subnet: IpNetwork
    ip_range: IpNetwork | None
    gateway: IpAddress | None
    auxiliary: dict[str, IpAddress]


@dataclass(frozen=True)
class NetworkRequest:
    """A NetworkCreateRequest, checked as far as that goes without knowing other networks."""

    name: str
    driver: str
    subnets: tuple[SubnetRequest, ...]
    enable_ipv4: bool
    enable_ipv6: bool
    internal: bool
    attachable: bool
    options: dict[str, str]
    labels: dict[str, str]
    ipam_driver: str
    ipam_options: dict[str, str] | None  # None: not sent, which inspect shows
    config_only: bool
    config_from: str


def network_request(body: Document) -> NetworkRequest:
    """Raises InvalidParameter."""
    name = body.get("Name") or ""
    if not isinstance(name, str) or not name.strip():
        raise InvalidParameter("invalid network name: name is empty")
    ipam = body.get("IPAM") or {}
    enable_ipv6 = bool(body.get("EnableIPv6"))
    enable_ipv4 = body.get("EnableIPv4") is not False
    config_only = bool(body.get("ConfigOnly"))
    if not (enable_ipv4 or enable_ipv6):
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    if body.get("Ingress"):
        raise InvalidParameter("Ingress network cannot be created: this engine is no swarm; leave out --ingress")
    if (body.get("Scope") or "local") != "local":
        raise InvalidParameter(f"--scope {body['Scope']} is not supported: networks are local to this engine")
    return NetworkRequest(
        name=name,
        driver="null" if config_only else body.get("Driver") or "bridge",
        subnets=_subnets(ipam.get("Config") or [], enable_ipv4, enable_ipv6),
        enable_ipv4=enable_ipv4,
        enable_ipv6=enable_ipv6,
        internal=bool(body.get("Internal")),
        attachable=bool(body.get("Attachable")),
        options=_texts(body.get("Options")),
        labels=_texts(body.get("Labels")),
        ipam_driver=ipam.get("Driver") or "default",
        ipam_options=None if ipam.get("Options") is None else _texts(ipam["Options"]),
        config_only=config_only,
        config_from=(body.get("ConfigFrom") or {}).get("Network") or "",
    )


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in (value or {}).items()}


def _subnets(configs: list[Document], enable_ipv4: bool, enable_ipv6: bool) -> tuple[SubnetRequest, ...]:
    """What belongs to a subnet of a version that is not enabled is not looked at, as in Docker."""
    found: list[str] = []
    subnets = []
    for config in configs:
        if not any(config.get(name) for name in ("Subnet", "IPRange", "Gateway", "AuxiliaryAddresses")):
            continue
        text = config.get("Subnet") or ""
        subnet = _prefix(text, "subnet", found)
        if subnet is None:
            continue
        faults = found if (enable_ipv4 if subnet.version == 4 else enable_ipv6) else []
        auxiliary = {
            name: _address_in(subnet, address, f"auxiliary address {name}", faults)
            for name, address in (config.get("AuxiliaryAddresses") or {}).items()
        }
        subnets.append(
            SubnetRequest(
                subnet,
                _range(subnet, config.get("IPRange") or "", faults),
                _address_in(subnet, config.get("Gateway") or "", f"gateway {config.get('Gateway')}", faults),
                {name: address for name, address in auxiliary.items() if address},
            )
        )
    if found:
        raise InvalidParameter("\n".join(["invalid network config:", *found]))
    return tuple(subnets)


def _prefix(text: str, what: str, faults: list[str]) -> IpNetwork | None:
    try:
        interface = ipaddress.ip_interface(text if "/" in text else "")
    except ValueError:
        faults.append(f"invalid {what} {text}: invalid CIDR block notation")
        return None
    if interface.ip != interface.network.network_address:
        faults.append(f"invalid {what} {text}: it should be {interface.network}")
        return None
    return interface.network


def _range(subnet: IpNetwork, text: str, faults: list[str]) -> IpNetwork | None:
    ip_range = _prefix(text, "ip-range", faults) if text else None
    if ip_range is None:
        return None
    if ip_range.version != subnet.version:
        faults.append(f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block")
    elif ip_range.prefixlen < subnet.prefixlen:
        faults.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}")
    elif ip_range.network_address not in subnet:
        faults.append(f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range")
    return ip_range


def _address_in(subnet: IpNetwork, text: str, what: str, faults: list[str]) -> IpAddress | None:
    if not text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        faults.append(f"invalid {what}: invalid address")
        return None
    if address.version != subnet.version:
        faults.append(f"invalid {what}: parent subnet is an IPv{subnet.version} block")
    elif address not in subnet:
        faults.append(f"invalid {what}: parent subnet {subnet} doesn't contain this address")
    return address

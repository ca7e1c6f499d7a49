"""Networks and endpoints: the Engine API's Network and EndpointSettings."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from runtime.api.wire.times import timestamp
from runtime.engine.container import Container
from runtime.engine.networks import Attachment, Membership, Network, Subnet, dns_names
from runtime.engine.options import EndpointConfig


def endpoints(container: Container, member: Membership | None) -> dict[str, Any]:
    """NetworkSettings.Networks: every network of the container by name, its addresses while it runs."""
    attachments = member.attachments if member else {}
    return {
        document["name"]: _endpoint(container, id, document, attachments.get(id))
        for id, document in container.networks.items()
    }


def _endpoint(
    container: Container, network_id: str, document: dict[str, Any], attachment: Attachment | None
) -> dict[str, Any]:
    """EndpointSettings; empty values for a container that does not run."""
    config = attachment.config if attachment else EndpointConfig.from_document(document["config"])
    ipv4, ipv4_length = _address(attachment.ipv4 if attachment else None)
    ipv6, ipv6_length = _address(attachment.ipv6 if attachment else None)
    user_defined = document["name"] not in ("bridge", "host", "none")
    return {
        "IPAMConfig": config.ipam,
        "Links": list(config.links) or None,
        "Aliases": list(config.aliases) or None,
        "MacAddress": (attachment.mac if attachment else "") or config.mac_address,
        "DriverOpts": config.driver_opts or None,
        "GwPriority": config.gw_priority,
        "NetworkID": attachment.network.id if attachment else network_id if user_defined else "",
        "EndpointID": attachment.endpoint_id if attachment else "",
        "Gateway": _gateway(attachment, 4) if ipv4 else "",
        "IPAddress": ipv4,
        "IPPrefixLen": ipv4_length,
        "IPv6Gateway": _gateway(attachment, 6) if ipv6 else "",
        "GlobalIPv6Address": ipv6,
        "GlobalIPv6PrefixLen": ipv6_length,
        "DNSNames": list(dns_names(container, config)) if user_defined else None,
    }


def _address(interface: IPv4Interface | IPv6Interface | None) -> tuple[str, int]:
    """And the length of its prefix: from the text, for every part of an interface is made anew when asked for."""
    address, _, length = str(interface or "").partition("/")
    return address, int(length or 0)


def _gateway(attachment: Attachment | None, version: int) -> str:
    if attachment is None or attachment.network.internal:
        return ""
    return str(attachment.network.gateway(version) or "")


def sandbox_id(member: Membership | None) -> str:
    """A name for the container's network namespace, made of its endpoints'."""
    if member is None:
        return ""
    ids = "".join(attachment.endpoint_id for attachment in member.attachments.values())
    return hashlib.sha256(f"{member.container.id}{ids[:64]}".encode()).hexdigest()


def network_summary(network: Network) -> dict[str, Any]:
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": timestamp(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.enable_ipv4,
        "EnableIPv6": network.enable_ipv6,
        "IPAM": {
            "Driver": network.ipam_driver,
            "Options": network.ipam_options,
            "Config": [_subnet(subnet) for subnet in (*network.subnets, *network.unused_subnets)],
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    }


def network(network: Network, members: dict[str, Membership]) -> dict[str, Any]:
    containers = {}
    for id, member in members.items():
        attachment = member.attachments[network.id]
        containers[id] = {
            "Name": member.container.name,
            "EndpointID": attachment.endpoint_id,
            "MacAddress": attachment.mac,
            "IPv4Address": str(attachment.ipv4 or ""),
            "IPv6Address": str(attachment.ipv6 or ""),
        }
    return network_summary(network) | {"Containers": containers}


def _subnet(subnet: Subnet) -> dict[str, Any]:
    shown: dict[str, Any] = {"Subnet": str(subnet.subnet)}
    if subnet.ip_range:
        shown["IPRange"] = str(subnet.ip_range)
    if subnet.gateway:
        shown["Gateway"] = str(subnet.gateway)
    if subnet.auxiliary:
        shown["AuxiliaryAddresses"] = {name: str(address) for name, address in subnet.auxiliary.items()}
    return shown

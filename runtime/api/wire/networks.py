"""Networks and endpoints: the Engine API's Network and EndpointSettings."""

from __future__ import annotations

from typing import Any

from runtime.api.wire.times import timestamp
from runtime.engine.networks import Attachment, Network


def endpoint(attachment: Attachment | None, network: Network) -> dict[str, Any]:
    """EndpointSettings; empty values for a container that does not run."""
    connected = attachment is not None and attachment.address is not None
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "MacAddress": attachment.mac if attachment else "",
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": network.id if attachment else "",
        "EndpointID": attachment.endpoint_id if attachment else "",
        "Gateway": str(network.gateway) if connected else "",
        "IPAddress": str(attachment.address) if connected and attachment else "",
        "IPPrefixLen": network.subnet.prefixlen if connected and network.subnet else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def network(network: Network, connected: dict[str, Attachment], names: dict[str, str]) -> dict[str, Any]:
    ipam = [{"Subnet": str(network.subnet), "Gateway": str(network.gateway)}] if network.subnet else []
    is_bridge = network.driver == "bridge"
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": timestamp(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": ipam},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            id: {
                "Name": names.get(id, ""),
                "EndpointID": attachment.endpoint_id,
                "MacAddress": attachment.mac,
                "IPv4Address": f"{attachment.address}/{network.subnet.prefixlen}"
                if attachment.address and network.subnet
                else "",
                "IPv6Address": "",
            }
            for id, attachment in connected.items()
        },
        "Options": {"com.docker.network.bridge.name": network.bridge} if is_bridge else {},
        "Labels": {},
    }

"""What a container may ask of a network, and which networks go together: Docker's rules and words."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runtime.engine.container import Container
from runtime.engine.networks.definition import iface_prefix
from runtime.engine.networks.model import HOST, NULL, Network
from runtime.engine.options import EndpointConfig
from runtime.engine.options.namespaces import donor
from runtime.errors import InvalidParameter, PermissionDenied, SystemFault

if TYPE_CHECKING:
    from runtime.engine.networks.attachments import Attachment, Membership

IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
_IFNAME = re.compile(r"[^\s/:%]{1,15}")

SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"
HOST_NETWORK = "container cannot be disconnected from host network or connected to host network"
PRIVATE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"


def document(name: str, config: EndpointConfig) -> dict[str, Any]:
    """What a container keeps of a network while it does not run."""
    return {"name": name, "config": config.to_document(), "endpoint": None}


def check(network: Network, config: EndpointConfig) -> None:
    """Raises InvalidParameter, PermissionDenied."""
    if network.config_only:
        raise PermissionDenied(f"cannot create endpoint on configuration-only network {network.name}")
    if not network.user_defined:
        if config.ipv4 or config.ipv6:
            raise InvalidParameter(
                "invalid config for network "
                f"{network.name}: invalid endpoint settings:\nuser specified IP address is supported on user defined "
                "networks only"
            )
        if config.aliases:
            raise InvalidParameter(
                f"invalid config for network {network.name}: invalid endpoint settings:\nnetwork-scoped alias is "
                "supported only for containers in user defined networks"
            )
    for version, wanted in ((4, config.ipv4), (6, config.ipv6)):
        if wanted:
            _check_address(network, version, wanted)
    if (name := config.driver_opts.get(IFNAME)) is not None and not _IFNAME.fullmatch(name):
        raise InvalidParameter(f"invalid interface name {name!r} in {IFNAME}: up to 15 characters, no slash")
    link_local(config)


def _check_address(network: Network, version: int, wanted: str) -> None:
    subnets = [
        *network.subnets_of(version),
        *(unused for unused in network.unused_subnets if unused.version == version),
    ]
    prefix = f"invalid config for network {network.name}: invalid endpoint settings:\n"
    if not subnets or all(subnet.chosen for subnet in subnets):
        raise InvalidParameter(
            f"{prefix}user specified IP address is supported only when connecting to networks with user configured "
            "subnets"
        )
    if not any(ipaddress.ip_address(wanted) in subnet.subnet for subnet in subnets):
        raise InvalidParameter(f"{prefix}no configured subnet contains IP address {wanted}")


def check_together(networks: Iterable[Network]) -> None:
    """Whether a container may be on all of these. Raises InvalidParameter."""
    drivers = [network.driver for network in networks]
    if len(drivers) > 1 and HOST in drivers:
        raise InvalidParameter(SHARED)
    if len(drivers) > 1 and NULL in drivers:
        raise InvalidParameter(PRIVATE)


def check_connect(container: Container, network: Network, present: list[Network]) -> None:
    """Raises InvalidParameter."""
    if donor(container.options.network_mode):
        raise InvalidParameter(SHARED)
    if any(other.driver == HOST for other in present):
        raise InvalidParameter(SHARED if network.driver != HOST else HOST_NETWORK)
    if network.driver == HOST:
        raise InvalidParameter(HOST_NETWORK)
    if network not in present:
        check_together([*present, network])


def check_disconnect(container: Container, network: Network) -> None:
    """Raises InvalidParameter, SystemFault (moby has no better kind for what is not connected)."""
    if donor(container.options.network_mode):
        raise InvalidParameter(SHARED)
    if network.driver == HOST:
        raise InvalidParameter(HOST_NETWORK)
    if network.id not in container.networks:
        which = "network" if container.state.has_process else "the network"
        raise SystemFault(f"container {container.id} is not connected to {which} {network.name}")


def link_local(config: EndpointConfig) -> list[str]:
    """With their prefix; raises InvalidParameter."""
    found = []
    for text in config.link_local:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise InvalidParameter(f"invalid endpoint settings:\ninvalid link-local IP address: {text}") from None
        found.append(f"{address}/{16 if address.version == 4 else 64}")
    return found


def interface_name(attachment: Attachment, member: Membership) -> str:
    """The one asked for, or the network's prefix with the first free number."""
    taken = {other.ifname for other in member.attachments.values() if other is not attachment}
    if wanted := attachment.config.driver_opts.get(IFNAME):
        return wanted
    prefix = iface_prefix(attachment.network)
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def sysctls(attachment: Attachment) -> dict[str, str]:
    """`net.X.Y.IFNAME.Z=value,...` with the interface's name put in. Raises InvalidParameter."""
    found = {}
    for setting in filter(None, attachment.config.driver_opts.get(SYSCTLS, "").split(",")):
        name, equals, value = setting.partition("=")
        parts = name.split(".")
        if not equals or len(parts) < 5 or parts[0] != "net" or parts[3] != "IFNAME":
            raise InvalidParameter(
                f"unrecognised network interface sysctl '{setting}'; represent 'net.X.Y.ethN.Z=V' "
                "as 'net.X.Y.IFNAME.Z=V'"
            )
        found[".".join([*parts[:3], attachment.ifname, *parts[4:]])] = value
    return found

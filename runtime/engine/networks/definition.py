"""From a request to a network: names, options and subnets, checked against each other and the networks there are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

from runtime.engine.networks.model import BRIDGE, DRIVERS, HOST, NULL, PREDEFINED, Network, Subnet
from runtime.engine.options import NetworkRequest, SubnetRequest
from runtime.errors import Conflict, InvalidParameter, NotFound, NotSupported, PermissionDenied, Unavailable
from runtime.linux.netlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES, IpNetwork
from runtime.network.bridge import DEFAULT_MTU, GatewayMode
from runtime.network.ipam import choose_subnet

POOL_OVERLAPS = "invalid pool request: Pool overlaps with other one on this address space"
MACHINE_ID = Path("/etc/machine-id")

MTU = "com.docker.network.driver.mtu"
IFACE_PREFIX = "com.docker.network.container_iface_prefix"
BRIDGE_NAME = "com.docker.network.bridge.name"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
ICC = "com.docker.network.bridge.enable_icc"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
GATEWAY_MODES = {4: "com.docker.network.bridge.gateway_mode_ipv4", 6: "com.docker.network.bridge.gateway_mode_ipv6"}
PARENT, MACVLAN_MODE, IPVLAN_MODE, IPVLAN_FLAG = "parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"

_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,11}")
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_REFUSED = re.compile(r"com\.docker\.network\.(?!enable_ipv[46]$)|bridge\.")
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def _mtu(value: str) -> None:
    if not value.isdigit() or not 68 <= int(value) <= 65535:
        raise InvalidParameter(f"invalid MTU {value!r} in --opt {MTU}: a number from 68 to 65535 is needed")


def _flag(name: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in (*_TRUE, *_FALSE):
            raise InvalidParameter(f"failed to parse {name} value: {value!r} (true or false is needed)")

    return check


def _one_of(name: str, values: Iterable[str]) -> Callable[[str], None]:
    allowed = tuple(values)

    def check(value: str) -> None:
        if value not in allowed:
            raise InvalidParameter(f"{name} {value!r} is not supported: use {', '.join(allowed)}")

    return check


def _pattern(name: str, pattern: re.Pattern[str]) -> Callable[[str], None]:
    def check(value: str) -> None:
        if not pattern.fullmatch(value):
            raise InvalidParameter(f"invalid value {value!r} of --opt {name}")

    return check


def _host_binding(value: str) -> None:
    try:
        IPv4Address(value)
    except ValueError:
        raise InvalidParameter(f"failed to parse {HOST_BINDING} value: {value!r} is no IPv4 address") from None


_MODES = ("nat", "nat-unprotected", "routed", "isolated")
# Every option a driver acts on, with the check of its value.
OPTIONS: Mapping[str, Mapping[str, Callable[[str], None]]] = {
    "bridge": {
        BRIDGE_NAME: _pattern(BRIDGE_NAME, _INTERFACE),
        MASQUERADE: _flag(MASQUERADE),
        ICC: _flag(ICC),
        HOST_BINDING: _host_binding,
        MTU: _mtu,
        IFACE_PREFIX: _pattern(IFACE_PREFIX, _PREFIX),
        **{name: _one_of(name, _MODES) for name in GATEWAY_MODES.values()},
    },
    "macvlan": {
        PARENT: _pattern(PARENT, _INTERFACE),
        MACVLAN_MODE: _one_of(MACVLAN_MODE, MACVLAN_MODES),
        MTU: _mtu,
        IFACE_PREFIX: _pattern(IFACE_PREFIX, _PREFIX),
    },
    "ipvlan": {
        PARENT: _pattern(PARENT, _INTERFACE),
        IPVLAN_MODE: _one_of(IPVLAN_MODE, IPVLAN_MODES),
        IPVLAN_FLAG: _one_of(IPVLAN_FLAG, IPVLAN_FLAGS),
        MTU: _mtu,
        IFACE_PREFIX: _pattern(IFACE_PREFIX, _PREFIX),
    },
    "null": {},
}


def flag(network: Network, name: str, default: bool) -> bool:
    value = network.options.get(name)
    return default if value is None else value in _TRUE


def mtu(network: Network) -> int:
    return int(network.options.get(MTU) or DEFAULT_MTU)


def gateway_mode(network: Network, version: int) -> GatewayMode:
    mode: GatewayMode = network.options.get(GATEWAY_MODES[version], "nat")  # type: ignore[assignment]
    return mode


def host_binding(network: Network) -> str:
    """Where ports are published that name no address; empty for everywhere, IPv6 included."""
    return network.options.get(HOST_BINDING, "").replace("0.0.0.0", "")


def iface_prefix(network: Network) -> str:
    return network.options.get(IFACE_PREFIX) or "eth"


# --- from a request


def define(
    request: NetworkRequest,
    id: str,
    created_ns: int,
    networks: Iterable[Network],
    routed: Callable[[], list[IpNetwork]],
) -> Network:
    """The network asked for, without its interface. `routed` are the networks the host has routes to.

    Raises PermissionDenied, Conflict, NotFound, Unavailable, NotSupported, InvalidParameter: Docker's refusals.
    """
    present = list(networks)
    _check_name(request.name, present)
    request = _inherit(request, present) if request.config_from else request
    if not request.config_only:
        _check_driver(request.driver)
        _check_options(request)
    subnets = _subnets(request, present, routed)
    unused = [
        Subnet(asked.subnet, asked.gateway, asked.ip_range, asked.auxiliary)
        for asked in request.subnets
        if not _is_enabled(request, asked.subnet.version)
    ]
    return Network(
        id=id,
        name=request.name,
        driver=request.driver,
        created_ns=created_ns,
        subnets=tuple(subnets),
        unused_subnets=tuple(unused),
        enable_ipv4=request.enable_ipv4,
        enable_ipv6=request.enable_ipv6,
        internal=request.internal,
        attachable=request.attachable,
        options=request.options,
        labels=request.labels,
        ipam_driver=request.ipam_driver,
        ipam_options=request.ipam_options,
        config_only=request.config_only,
        config_from=request.config_from,
    )


def _check_name(name: str, present: list[Network]) -> None:
    if name in PREDEFINED or name == "default":
        raise PermissionDenied(f"operation is not permitted on predefined {name} network")
    if any(network.name == name for network in present):
        raise Conflict(f"network with name {name} already exists")


def _check_driver(driver: str) -> None:
    if driver in (HOST, NULL):
        raise PermissionDenied(f'only one instance of "{driver}" network is allowed')
    if driver == "overlay":
        raise Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
            "swarm and try again."
        )
    if driver not in DRIVERS:
        raise NotFound(f'plugin "{driver}" not found')


def _inherit(request: NetworkRequest, present: list[Network]) -> NetworkRequest:
    configurations = [network for network in present if network.config_only]
    source = next((network for network in configurations if request.config_from in (network.name, network.id)), None)
    if source is None:
        raise NotFound(f'configuration network "{request.config_from}" not found')
    if request.subnets or request.options or request.ipam_options or request.enable_ipv6 or request.internal:
        raise PermissionDenied(
            "user supplied configurations are not supported if the network depends on a configuration network"
        )
    subnets = tuple(
        SubnetRequest(subnet.subnet, subnet.ip_range, subnet.gateway, subnet.auxiliary)
        for subnet in (*source.subnets, *source.unused_subnets)
    )
    return replace(
        request,
        subnets=subnets,
        options=source.options,
        labels={**source.labels, **request.labels},
        enable_ipv4=source.enable_ipv4,
        enable_ipv6=source.enable_ipv6,
        internal=source.internal,
        ipam_driver=source.ipam_driver,
        ipam_options=source.ipam_options,
        config_from=source.name,
    )


def _check_options(request: NetworkRequest) -> None:
    """Refuses by name what a driver would be expected to act on and does not; leaves other options alone."""
    known = OPTIONS[request.driver]
    for name, value in request.options.items():
        if name in known:
            known[name](value)
        elif _REFUSED.match(name):
            raise NotSupported(f"--opt {name} is not supported by this version of Wherry: leave it out")
    if request.ipam_driver != "default":
        raise NotFound(f'plugin "{request.ipam_driver}" not found')
    if request.driver != BRIDGE:
        return
    for version, name in GATEWAY_MODES.items():
        if request.options.get(name) == "isolated" and not request.internal:
            raise InvalidParameter(f"gateway mode 'isolated' can only be used for an internal network: IPv{version}")
        if not _is_enabled(request, version):
            continue
        if len([subnet for subnet in request.subnets if subnet.subnet.version == version]) > 1:
            raise PermissionDenied("bridge driver doesn't support multiple subnets")


def _subnets(
    request: NetworkRequest, present: list[Network], routed: Callable[[], list[IpNetwork]]
) -> Iterator[Subnet]:
    taken: list[IpNetwork] = [
        subnet.subnet for network in present if not network.config_only for subnet in network.subnets
    ]
    # Macvlans and ipvlans extend networks that are there; only bridges must not hide one.
    for version in (4, 6):
        if not _is_enabled(request, version):
            continue
        asked = [subnet for subnet in request.subnets if subnet.subnet.version == version]
        for subnet in asked:
            if not request.config_only and any(subnet.subnet.overlaps(other) for other in taken):
                raise PermissionDenied(POOL_OVERLAPS)
            taken.append(subnet.subnet)
            yield _with_gateway(request, subnet)
        if not asked and not request.config_only:
            chosen = choose_subnet([*taken, *routed()]) if version == 4 else choose_ipv6_subnet([*taken, *routed()])
            taken.append(chosen)
            yield _with_gateway(request, SubnetRequest(chosen, None, None, {}), chosen=True)


def _is_enabled(request: NetworkRequest, version: int) -> bool:
    return request.enable_ipv4 if version == 4 else request.enable_ipv6


def _with_gateway(request: NetworkRequest, asked: SubnetRequest, chosen: bool = False) -> Subnet:
    """The gateway is the first free address of the range, or of the subnet, unless one was asked for."""
    gateway = asked.gateway
    needless = request.driver == BRIDGE and request.internal and _mode(request, asked) == "isolated"
    if gateway is None and not request.config_only and not needless:
        pool = asked.ip_range or asked.subnet
        first = 1 if pool.network_address == asked.subnet.network_address and pool.num_addresses > 2 else 0
        gateway = next(
            pool[offset] for offset in range(first, pool.num_addresses) if pool[offset] not in asked.auxiliary.values()
        )
    return Subnet(asked.subnet, gateway, asked.ip_range, asked.auxiliary, chosen)


def _mode(request: NetworkRequest, asked: SubnetRequest) -> str:
    return request.options.get(GATEWAY_MODES[asked.subnet.version], "nat")


def choose_ipv6_subnet(in_use: Iterable[IpNetwork]) -> IPv6Network:
    """The first /64 of this machine's own unique local prefix (RFC 4193) that overlaps none in use."""
    try:
        machine = MACHINE_ID.read_bytes()
    except OSError:
        machine = b"wherry"
    prefix = IPv6Network((b"\xfd" + hashlib.sha256(machine).digest()[:5] + bytes(10), 48))
    taken = [network for network in in_use if isinstance(network, IPv6Network)]
    for candidate in prefix.subnets(new_prefix=64):
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise Conflict("All predefined address pools have been fully subnetted: name an IPv6 subnet.")

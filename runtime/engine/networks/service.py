"""Networks and who is on them: set up when a container starts, changed while it runs, let go when it has ended.

Everything a container gets from `join` is undone by `release`, whether its start failed or it has ended.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path
from typing import Any, cast

from runtime.engine.container import Container
from runtime.engine.events import Event, EventBus
from runtime.engine.networks.addresses import AddressBook
from runtime.engine.networks.attachments import Attachment, Membership, PublishedPort
from runtime.engine.networks.model import BRIDGE, PREDEFINED, Network, Subnet
from runtime.engine.networks.publishing import Publisher
from runtime.engine.networks.resolution import RESOLVER_ADDRESS, Resolution
from runtime.engine.options import EndpointConfig, Options
from runtime.engine.settings import EngineSettings
from runtime.engine.store import Store
from runtime.errors import NotFound, WherryError
from runtime.linux.netlink import IpAddress
from runtime.network.bridge import BridgeConfig, ensure_bridge, remove_bridge
from runtime.network.foreign_rules import forward_blocks
from runtime.network.ipam import choose_subnet, host_networks
from runtime.network.nat import NatTable
from runtime.network.sandbox import SandboxPool, open_sandbox

log = logging.getLogger(__name__)

SANDBOXES_AHEAD = 4


class NetworkService:
    """Owns the networks, address pools, packet rules and host ports of one engine."""

    def __init__(self, settings: EngineSettings, store: Store, events: EventBus) -> None:
        self._settings = settings
        self._store = store
        self._events = events
        self._networks: dict[str, Network] = {}
        self._members: dict[str, Membership] = {}  # by container id
        host = settings.host_gateway_ip
        self._resolution = Resolution(ipaddress.ip_address(host) if host else None)
        for id, document in store.all("network"):
            self._networks[id] = Network.from_document(id, document)
        for name, driver in PREDEFINED.items():
            if not any(network.name == name for network in self._networks.values()):
                self._add_predefined(name, driver)
        self.default = self.find("bridge")
        self._addresses = AddressBook()
        for network in self._networks.values():
            self._addresses.add(network)
        self._nat = NatTable(settings.nft_table, [bridge_config(self.default)])
        self._publisher = Publisher(self._nat)
        self._pools: dict[str, SandboxPool] = {}  # by network driver

    def _add_predefined(self, name: str, driver: str) -> None:
        subnets: tuple[Subnet, ...] = ()
        if driver == BRIDGE:
            subnet = choose_subnet(host_networks())
            subnets = (Subnet(subnet, subnet[1], chosen=True),)
        interface = self._settings.bridge_name if driver == BRIDGE else ""
        network = Network(secrets.token_hex(32), name, driver, time.time_ns(), subnets, interface)
        self._networks[network.id] = network
        self._store.put("network", network.id, network.to_document())

    # --- finding

    def all(self) -> list[Network]:
        return list(self._networks.values())

    def find(self, name: str) -> Network:
        """By name, id, or the beginning of an id; raises NotFound."""
        if name in self._networks:
            return self._networks[name]
        for network in self._networks.values():
            if name == network.name:
                return network
        matches = [network for network in self._networks.values() if name and network.id.startswith(name)]
        if len(matches) != 1:
            raise NotFound(f"network {name} not found")
        return matches[0]

    def membership(self, container_id: str) -> Membership | None:
        return self._members.get(container_id)

    def members(self, network: Network) -> dict[str, Membership]:
        """Running containers on the network, by id."""
        return {id: member for id, member in self._members.items() if network.id in member.attachments}

    def firewall_warnings(self) -> list[str]:
        """Sentences about other firewalls of this host that stand in the way of our networks. Blocks for some ms."""
        networks = [network for network in self.all() if network.driver == BRIDGE and not network.internal]
        try:
            return [str(block) for block in forward_blocks([network.interface for network in networks])]
        except WherryError as error:
            log.info("other firewalls are unknown: %s", error)
            return []

    # --- a container's life

    def plan(self, options: Options) -> dict[str, dict[str, Any]]:
        """What a container made with these options keeps of its networks: by id, or by name where there is none yet.

        Raises NotFound, NotSupported, InvalidParameter for what `join` could not do.
        """
        networks = {}
        for name, config in options.endpoints.items():
            network = self.find(name)
            networks[network.id] = {"name": network.name, "config": config.to_document(), "endpoint": None}
        return networks

    async def join(self, container: Container) -> Membership:
        """Give a starting container its networks; raises Conflict for a taken port or address, NotFound."""
        async with AsyncExitStack() as undo:
            member = Membership(container, default_gateway=str(self.default.gateway(4) or ""))
            undo.push_async_callback(self._let_go, member)
            for reference, document in container.networks.items():
                network = self.find(reference)
                config = EndpointConfig.from_document(document["config"])
                member.attachments[network.id] = Attachment(network, config, secrets.token_hex(32))
            if not member.shares_host:
                self._set_up(member)
                await self._publish(member)
                await self._attach_resolver(member)
            self._members[container.id] = member
            undo.pop_all()
        for attachment in member.attachments.values():
            self._announce("connect", container, attachment.network)
        return member

    def _set_up(self, member: Membership) -> None:
        """The sandbox, with an interface for every network."""
        attachments = list(member.attachments.values())
        pool = self._pools["bridge" if attachments[0].network is self.default else "null"]
        member.sandbox = pool.take()
        for attachment in attachments:
            self._give_addresses(attachment)
        gateway = member.gateway(4)
        for index, attachment in enumerate(attachments):
            if attachment.network.has_interfaces:
                self._plug(member, attachment, f"eth{index}", attachment is gateway)

    def _give_addresses(self, attachment: Attachment) -> None:
        network, config = attachment.network, attachment.config
        if network.enable_ipv4 and network.subnets_of(4):
            attachment.ipv4 = cast(IPv4Interface, self._addresses.allocate(network, 4, config.ipv4))
        if network.enable_ipv6 and network.subnets_of(6):
            attachment.ipv6 = cast(IPv6Interface, self._addresses.allocate(network, 6, config.ipv6))

    def _plug(self, member: Membership, attachment: Attachment, ifname: str, with_gateway: bool) -> None:
        assert member.sandbox and attachment.ipv4
        gateway = attachment.network.gateway(4) if with_gateway else None
        endpoint = member.sandbox.attach(
            attachment.network.interface,
            attachment.ipv4,
            cast(IPv4Address | None, gateway),
            attachment.config.mac_address or None,
            ifname,
        )
        attachment.ifname, attachment.mac = ifname, endpoint.mac

    async def _publish(self, member: Membership) -> None:
        gateway = member.gateway(4) or member.gateway(6)
        if gateway and gateway.network.driver == BRIDGE:
            endpoint = f"{member.container.name} ({gateway.endpoint_id})"
            ports = member.container.options.ports
            await self._publisher.publish(member.published, ports, _targets(member), endpoint)

    async def _attach_resolver(self, member: Membership) -> None:
        if member.named and member.sandbox:
            await self._resolution.attach(member, member.sandbox.fd)
            member.resolver_address = RESOLVER_ADDRESS

    async def release(self, container_id: str) -> list[Network]:
        """Undo `join`; returns the networks left, for `announce_left`. Nothing if there is nothing to undo."""
        member = self._members.pop(container_id, None)
        if member is None:
            return []
        await self._let_go(member)
        member.forget()
        return [attachment.network for attachment in member.attachments.values()]

    async def leave(self, container: Container) -> None:
        """`release`, for a start that failed."""
        self.announce_left(container, await self.release(container.id))

    async def _let_go(self, member: Membership) -> None:
        self._resolution.detach(member.container.id)
        await self._publisher.withdraw(member.published)
        if member.sandbox:
            member.sandbox.close()
            member.sandbox = None
        for attachment in member.attachments.values():
            self._addresses.release(attachment.network, attachment.addresses)

    def announce_left(self, container: Container, networks: Iterable[Network]) -> None:
        for network in networks:
            self._announce("disconnect", container, network)

    def _announce(self, action: str, container: Container, network: Network) -> None:
        attributes = {"container": container.id, "name": network.name, "type": network.driver}
        self._events.publish(Event("network", action, network.id, attributes))

    # --- engine start and stop

    async def start(self, running: Iterable[Container]) -> None:
        """Bring the kernel to what is wanted; `running` are the containers that lived on."""
        ensure_bridge(bridge_config(self.default))
        for container in running:
            self._members[container.id] = self._restore(container)
        self._nat.replace_all(self._publisher.rules(member.published for member in self._members.values()))
        self._pools = {
            "bridge": SandboxPool(self.default.interface, SANDBOXES_AHEAD),
            "null": SandboxPool(None, SANDBOXES_AHEAD),
        }
        for member in self._members.values():
            self._publisher.serve(member.published)
            await self._restore_resolver(member)

    def _restore(self, container: Container) -> Membership:
        member = Membership(container)
        for reference, document in container.networks.items():
            network = self._networks.get(reference)
            if network is None or not document["endpoint"]:
                continue
            config = EndpointConfig.from_document(document["config"])
            attachment = Attachment.from_document(network, config, document["endpoint"])
            for address in attachment.addresses:
                self._addresses.keep(network, address)
            member.attachments[network.id] = attachment
        ports = [PublishedPort.from_document(port) for port in container.published]
        member.published = self._publisher.restore(ports, _targets(member))
        return member

    async def _restore_resolver(self, member: Membership) -> None:
        if not member.named:
            return
        try:
            with open_sandbox(Path(f"/proc/{member.container.state.pid}/ns/net")) as sandbox:
                await self._resolution.attach(member, sandbox.fd, known=True)
        except (WherryError, OSError) as error:
            log.warning("container %s has no DNS until it is restarted: %s", member.container.id, error)

    def close(self) -> None:
        """Let go of what this process holds; running containers keep their network."""
        self._resolution.close()
        while self._pools:
            self._pools.popitem()[1].close()
        for member in self._members.values():
            self._publisher.close(member.published)
            if member.sandbox:
                member.sandbox.close()
                member.sandbox = None

    def remove_everything(self) -> None:
        """Take the bridges and the packet rules out of the kernel: the end of `wherryd shutdown`."""
        self.close()  # nothing may be prepared for a bridge that goes
        self._nat.remove()
        for network in self._networks.values():
            if network.driver == BRIDGE:
                remove_bridge(network.interface)


def _targets(member: Membership) -> dict[int, IpAddress]:
    """Where published ports lead, by IP version: to the interfaces with the default routes."""
    targets: dict[int, IpAddress] = {}
    if (gateway := member.gateway(4)) and gateway.ipv4 and gateway.network.driver == BRIDGE:
        targets[4] = gateway.ipv4.ip
    if (gateway := member.gateway(6)) and gateway.ipv6 and gateway.network.driver == BRIDGE:
        targets[6] = gateway.ipv6.ip
    return targets


def bridge_config(network: Network) -> BridgeConfig:
    subnet = network.subnets_of(4)[0]
    assert isinstance(subnet.subnet, IPv4Network) and isinstance(subnet.gateway, IPv4Address)
    return BridgeConfig(
        network.interface, IPv4Interface((subnet.gateway, subnet.subnet.prefixlen)), internal=network.internal
    )

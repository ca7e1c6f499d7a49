"""Networks and who is on them: set up when a container starts, changed while it runs, let go when it has ended.

Everything a container gets from `join` is undone by `release`, whether its start failed or it has ended.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, cast

from runtime.engine import files
from runtime.engine.container import Container
from runtime.engine.events import Event, EventBus
from runtime.engine.networks import definition, endpoints
from runtime.engine.networks.addresses import AddressBook
from runtime.engine.networks.attachments import Attachment, Membership, PublishedPort
from runtime.engine.networks.catalogue import Catalogue
from runtime.engine.networks.drivers import bridge_config, drivers
from runtime.engine.networks.model import BRIDGE, Network
from runtime.engine.networks.publishing import Publisher
from runtime.engine.networks.resolution import RESOLVER_ADDRESS, Resolution
from runtime.engine.options import EndpointConfig, NetworkRequest, Options
from runtime.engine.options.namespaces import donor
from runtime.engine.settings import EngineSettings
from runtime.engine.store import Store
from runtime.errors import NotFound, PermissionDenied, WherryError
from runtime.linux.netlink import IpAddress
from runtime.network.bridge import ensure_bridge, reconnect, remove_bridge
from runtime.network.dns.sockets import open_server_sockets
from runtime.network.foreign_rules import forward_blocks
from runtime.network.ipam import host_networks
from runtime.network.nat import NatTable
from runtime.network.port_broker import PortBroker
from runtime.network.sandbox import Sandbox, SandboxPool, open_sandbox

log = logging.getLogger(__name__)

SANDBOXES_AHEAD = 4


class NetworkService:
    """Owns the networks, address pools, packet rules and host ports of one engine."""

    def __init__(self, settings: EngineSettings, store: Store, events: EventBus) -> None:
        self._events = events
        self._catalogue = Catalogue(settings, store)
        self.default = self._catalogue.default
        self._members: dict[str, Membership] = {}  # by container id
        self._sharers: dict[str, set[str]] = {}  # container id -> those in its sandbox (`--network container:`)
        self._bundles_dir = settings.bundles_dir
        host = settings.host_gateway_ip
        self._resolution = Resolution(ipaddress.ip_address(host) if host else None)
        self._addresses = AddressBook()
        for network in self._catalogue:
            self._addresses.add(network)
        self._nat = NatTable(settings.nft_table)
        self._drivers = drivers(self._nat)
        self._broker = PortBroker(settings.port_broker) if settings.port_broker else None
        self._publisher = Publisher(self._nat, self._broker)
        self._pools: dict[
            str, SandboxPool
        ] = {}  # by what is in them: "bridge" a link to the default one, "named" a name server, "null" nothing
        self._changing = asyncio.Lock()  # held by whoever makes or removes a network

    # --- finding

    def all(self) -> list[Network]:
        return list(self._catalogue)

    def find(self, name: str) -> Network:
        """By id, name, or the beginning of an id; raises NotFound, InvalidParameter when several match."""
        return self._catalogue.find(name)

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

    # --- networks

    async def create(self, request: NetworkRequest) -> Network:
        """Raises PermissionDenied, Conflict, NotFound, NotSupported, InvalidParameter: Docker's refusals."""
        async with self._changing:
            id, free_name = self._catalogue.new_id()
            network = definition.define(request, id, time.time_ns(), self._catalogue, host_networks)
            with ExitStack() as undo:
                if not network.config_only:
                    interface, owned = self._drivers[network.driver].name_interface(network, free_name)
                    network = replace(network, interface=interface, owns_interface=owned)
                self._prepare_named()
                self._catalogue.add(network)  # first: an engine killed after this makes or removes the rest
                undo.callback(self._catalogue.remove, network)
                self._addresses.add(network)
                undo.callback(self._addresses.forget, network)
                if not network.config_only:
                    undo.callback(self._drivers[network.driver].remove, network)
                    self._drivers[network.driver].ensure(network)
                undo.pop_all()
        self._publish_event("create", network)
        return network

    async def remove(self, network: Network) -> None:
        """Raises PermissionDenied for a predefined network and for one that running containers are on."""
        async with self._changing:
            self._check_removable(network)
            if not network.config_only:
                await asyncio.to_thread(self._drivers[network.driver].remove, network)
            self._addresses.forget(network)
            self._catalogue.remove(network)
        self._publish_event("destroy", network)

    def _check_removable(self, network: Network) -> None:
        if network.predefined:
            raise PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")
        if network.config_only and any(other.config_from == network.name for other in self._catalogue):
            raise PermissionDenied(f'error while removing network: configuration network "{network.name}" is in use')
        if members := self.members(network):
            users = ", ".join(
                f'name:"{member.container.name}" id:"{member.attachments[network.id].endpoint_id[:12]}"'
                for member in members.values()
            )
            raise PermissionDenied(
                f"error while removing network: network {network.name} has active endpoints ({users})"
            )

    async def prune(self, unused: Iterable[Network]) -> list[str]:
        """Remove those of them that no running container is on; returns their names."""
        removed = []
        for network in unused:
            try:
                await self.remove(network)
            except PermissionDenied:
                continue
            except WherryError as error:
                log.warning("network %s was not pruned: %s", network.name, error)
                continue
            removed.append(network.name)
        self._events.publish(Event("network", "prune", "", {"reclaimed": "0"}))
        return removed

    def _publish_event(self, action: str, network: Network, **attributes: str) -> None:
        shown = {**attributes, "name": network.name, "type": network.driver}
        self._events.publish(Event("network", action, network.id, shown))

    # --- a container's life

    def plan(self, options: Options) -> dict[str, dict[str, Any]]:
        """What a container made with these options keeps of its networks: by id, or by name where there is none yet.

        Raises InvalidParameter and others for what `join` could not do.
        """
        networks: dict[str, dict[str, Any]] = {}
        for name, config in options.endpoints.items():
            try:
                network = self._catalogue.find(name)
            except NotFound:  # it may be there at the start, as Docker has it
                networks[name] = endpoints.document(name, config)
                continue
            endpoints.check(network, config)
            networks[network.id] = endpoints.document(network.name, config)
        endpoints.check_together(known for id in networks if (known := self._catalogue.get(id)))
        return networks

    async def join(self, container: Container, shared: Container | None = None) -> Membership:
        """Give a starting container its networks, or those of the running container `shared`.

        Raises Conflict for a taken port or address, NotFound, and what drivers raise.
        """
        async with AsyncExitStack() as undo:
            member = self._membership(container)
            member.joined = self._members[shared.id] if shared else None
            undo.push_async_callback(self._let_go, member)
            self._find_networks(member)
            self._members[container.id] = member  # at once: its networks are in use from here on
            undo.callback(self._members.pop, container.id)
            if shared:
                member.sandbox = self._open(shared)
                self._sharers.setdefault(shared.id, set()).add(container.id)
            elif not member.shares_host:
                self._set_up(member)
                await self._publish(member)
                await self._attach_resolver(member)
            undo.pop_all()
        for attachment in member.attachments.values():
            self._announce("connect", container, attachment.network)
        return member

    def _membership(self, container: Container) -> Membership:
        return Membership(container, default_gateway=str(self.default.gateway(4) or ""))

    def _find_networks(self, member: Membership) -> None:
        container = member.container
        documents = {}
        for reference, document in container.networks.items():
            try:
                network = self._catalogue.find(reference)
            except NotFound as error:
                raise NotFound(f"failed to set up container networking: {error}") from None
            config = EndpointConfig.from_document(document["config"])
            if reference != network.id:  # there was none when the container was made
                endpoints.check(network, config)
            documents[network.id] = document | {"name": network.name}
            member.attachments[network.id] = Attachment(network, config, secrets.token_hex(32))
        container.networks = documents

    def _set_up(self, member: Membership) -> None:
        """The sandbox, with an interface for every network."""
        attachments = list(member.attachments.values())
        on_default = bool(attachments) and attachments[0].network is self.default
        member.sandbox = self._pools["bridge" if on_default else "named" if member.named else "null"].take()
        for attachment in attachments:
            self._give_addresses(attachment)
        gateways = {version: member.gateway(version) for version in (4, 6)}
        for attachment in attachments:
            if attachment.network.has_interfaces:
                routes = [version for version, gateway in gateways.items() if gateway is attachment]
                self._plug(member, member.sandbox, attachment, routes)

    def _give_addresses(self, attachment: Attachment) -> None:
        network, config = attachment.network, attachment.config
        if network.subnets_of(4):
            attachment.ipv4 = cast(IPv4Interface, self._addresses.allocate(network, 4, config.ipv4))
        if network.enable_ipv6 and network.subnets_of(6):
            attachment.ipv6 = cast(IPv6Interface, self._addresses.allocate(network, 6, config.ipv6))

    def _plug(self, member: Membership, sandbox: Sandbox, attachment: Attachment, routes: list[int]) -> None:
        attachment.ifname = endpoints.interface_name(attachment, member)
        endpoint = self._drivers[attachment.network.driver].plug(sandbox, attachment, attachment.ifname, routes)
        attachment.mac, attachment.host_ifname = endpoint.mac, endpoint.host_ifname
        if attachment.config.link_local:
            link_local = map(ipaddress.ip_interface, endpoints.link_local(attachment.config))
            sandbox.add_addresses(attachment.ifname, link_local)
        if sysctls := endpoints.sysctls(attachment):
            sandbox.write_sysctls(sysctls)

    async def _publish(self, member: Membership) -> None:
        gateway = member.gateway(4) or member.gateway(6)
        if gateway and gateway.network.driver == BRIDGE and member.container.options.ports:
            member.published.routed = _routed(member)
            await self._publisher.publish(
                member.published,
                member.container.options.ports,
                _targets(member),
                f"{member.container.name} ({gateway.endpoint_id})",
                definition.host_binding(gateway.network),
            )

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
        if member.joined:
            self._sharers.get(member.joined.container.id, set()).discard(member.container.id)
        elif sharers := self._sharers.pop(member.container.id, None):
            await asyncio.to_thread(self._unplug_for, sharers, member)
        for attachment in member.attachments.values():
            self._addresses.release(attachment.network, attachment.addresses)

    def _unplug_for(self, sharers: Iterable[str], member: Membership) -> None:
        """Its namespace lives on with those that share it: the interfaces go, for their addresses are free now."""
        for sharer in filter(None, map(self._members.get, sharers)):
            try:
                with self._open(sharer.container) as sandbox:
                    for attachment in member.attachments.values():
                        sandbox.detach(attachment.ifname)
            except WherryError as error:  # that one has ended as well
                log.debug("the interfaces of container %s: %s", member.container.id, error)

    def renamed(self, container: Container) -> None:
        """Others find it by its new name from now on."""
        member = self.membership(container.id)
        if member and member.named:
            self._resolution.update(member)

    def announce_left(self, container: Container, networks: Iterable[Network]) -> None:
        for network in networks:
            self._announce("disconnect", container, network)

    def _announce(self, action: str, container: Container, network: Network) -> None:
        self._publish_event(action, network, container=container.id)

    @staticmethod
    def _open(container: Container) -> Sandbox:
        """The sandbox a running container is in."""
        return open_sandbox(Path(f"/proc/{container.state.pid}/ns/net"))

    # --- changes while it runs, or before its next start

    async def connect(self, container: Container, network: Network, config: EndpointConfig) -> None:
        """The caller holds the container's lock, and keeps its document. Raises Docker's refusals."""
        endpoints.check(network, config)
        endpoints.check_connect(container, network, self._networks_of(container))
        member = self._members.get(container.id)
        if member is None:
            container.networks[network.id] = endpoints.document(network.name, config)
            return
        if network.id in member.attachments:
            raise PermissionDenied(f"endpoint with name {container.name} already exists in network {network.name}")
        async with AsyncExitStack() as undo:
            sandbox = undo.enter_context(self._open(container))
            attachment = Attachment(network, config, secrets.token_hex(32))
            async with AsyncExitStack() as failed:
                failed.callback(lambda: self._addresses.release(network, attachment.addresses))
                self._give_addresses(attachment)
                self._plug(member, sandbox, attachment, [])
                failed.callback(sandbox.detach, attachment.ifname)
                failed.push_async_callback(self._settle, member, sandbox)
                member.attachments[network.id] = attachment
                failed.callback(member.attachments.pop, network.id)
                await self._settle(member, sandbox)
                container.networks[network.id] = endpoints.document(network.name, config)
                failed.pop_all()
        hosts = self._bundles_dir / container.id / "hosts"
        files.add_to_hosts(hosts, container.options, container.hostname, attachment.addresses)
        member.note()
        self._announce("connect", container, network)

    async def disconnect(self, container: Container, network: Network) -> None:
        """The caller holds the container's lock, and keeps its document. Raises Docker's refusals."""
        endpoints.check_disconnect(container, network)
        member = self._members.get(container.id)
        attachment = member.attachments.get(network.id) if member else None
        if member and attachment:
            with self._open(container) as sandbox:
                del member.attachments[network.id]
                await self._settle(member, sandbox)
                await asyncio.to_thread(sandbox.detach, attachment.ifname)
            self._addresses.release(network, attachment.addresses)
            files.remove_from_hosts(self._bundles_dir / container.id / "hosts", attachment.addresses)
        del container.networks[network.id]
        if member and attachment:
            member.note()
            self._announce("disconnect", container, network)

    async def _settle(self, member: Membership, sandbox: Sandbox) -> None:
        """Bring default routes, published ports and names in line with the networks a running container is on."""
        for version in (4, 6):
            gateway = member.gateway(version)
            if gateway:
                next_hop = self._drivers[gateway.network.driver].next_hop(gateway.network, version)
                sandbox.set_default_route(gateway.ifname, version, next_hop)
            else:
                sandbox.unset_default_route(version)
        if member.published.ports:
            await self._publisher.retarget(member.published, _targets(member), _routed(member))
        else:
            await self._publish(member)
        before = member.resolver_address
        if before and member.named:
            self._resolution.update(member)
        elif before:
            self._resolution.detach(member.container.id)
            member.resolver_address = None
        elif member.named:
            # It runs, and may have had a name server on a network it left: then its rules are still there.
            await self._resolution.attach(member, sandbox.fd, known=True)
            member.resolver_address = RESOLVER_ADDRESS
        resolv_conf = self._bundles_dir / member.container.id / "resolv.conf"
        files.change_resolver(resolv_conf, member.container.options, before, member.resolver_address)

    def _networks_of(self, container: Container) -> list[Network]:
        return [network for id in container.networks if (network := self._catalogue.get(id))]

    # --- engine start and stop

    async def start(self, running: Iterable[Container]) -> None:
        """Bring the kernel to what is wanted; `running` are the containers that lived on."""
        bridges = []
        for network in self._catalogue:
            if network.driver == BRIDGE and not network.config_only:
                bridges.append(bridge_config(network))
                self._reconcile(network)
            elif network.has_interfaces and not network.config_only:
                self._reconcile(network)
        for container in running:
            self._members[container.id] = self._restore(container)
        for member in self._members.values():
            self._restore_sharing(member)
        published = [member.published for member in self._members.values()]
        self._nat.replace_all(self._publisher.rules(published), self._publisher.reachable(published), bridges)
        self._pools = {
            "bridge": SandboxPool(self.default.interface, SANDBOXES_AHEAD),
            "null": SandboxPool(None, SANDBOXES_AHEAD),
        }
        if any(network.user_defined for network in self._catalogue):
            self._prepare_named()
        for member in self._members.values():
            self._publisher.serve(member.published)
            await self._restore_resolver(member)
        if self._broker:
            self._broker.start()

    def _prepare_named(self) -> None:
        """Sandboxes with a name server's sockets, for user-defined networks: its packet rules are slow to make."""
        if "named" not in self._pools:
            self._pools["named"] = SandboxPool(None, SANDBOXES_AHEAD, furnish=open_server_sockets)

    def _reconcile(self, network: Network) -> None:
        try:
            if network.driver == BRIDGE:
                ensure_bridge(bridge_config(network))
            else:
                self._drivers[network.driver].ensure(network)
        except (WherryError, OSError) as error:
            if network is self.default:
                raise
            log.error("network %s does not work: %s", network.name, error)

    def _restore(self, container: Container) -> Membership:
        member = self._membership(container)
        for reference, document in container.networks.items():
            network = self._catalogue.get(reference)
            if network is None or not document["endpoint"]:
                continue
            config = EndpointConfig.from_document(document["config"])
            attachment = Attachment.from_document(network, config, document["endpoint"])
            for address in attachment.addresses:
                self._addresses.keep(network, address)
            member.attachments[network.id] = attachment
            if network.driver == BRIDGE:
                isolated = not definition.flag(network, definition.ICC, True)
                reconnect(attachment.host_ifname, network.interface, isolated)
        ports = [PublishedPort.from_document(port) for port in container.published]
        member.published = self._publisher.restore(ports, _targets(member))
        member.published.routed = _routed(member)
        return member

    def _restore_sharing(self, member: Membership) -> None:
        shared_id = donor(member.container.options.network_mode)
        if shared_id and (shared := self._members.get(shared_id)):
            member.joined = shared
            self._sharers.setdefault(shared_id, set()).add(member.container.id)

    async def _restore_resolver(self, member: Membership) -> None:
        if not member.named:
            return
        try:
            with self._open(member.container) as sandbox:
                await self._resolution.attach(member, sandbox.fd, known=True)
                member.resolver_address = RESOLVER_ADDRESS
        except (WherryError, OSError) as error:
            log.warning("container %s has no DNS until it is restarted: %s", member.container.id, error)

    def close(self) -> None:
        """Let go of what this process holds; running containers keep their network."""
        if self._broker:
            self._broker.stop()
        self._resolution.close()
        while self._pools:
            self._pools.popitem()[1].close()
        for member in self._members.values():
            self._publisher.close(member.published)
            if member.sandbox:
                member.sandbox.close()
                member.sandbox = None

    def remove_everything(self) -> None:
        """Take the interfaces and the packet rules out of the kernel: the end of `wherryd shutdown`."""
        self.close()  # nothing may be prepared for a bridge that goes
        self._nat.remove()
        for network in self._catalogue:
            if network.driver == BRIDGE:
                remove_bridge(network.interface)
            elif network.has_interfaces and not network.config_only:
                self._drivers[network.driver].remove(network)


def _targets(member: Membership) -> dict[int, IpAddress]:
    """Where published ports lead, by IP version: to the interfaces with the default routes."""
    targets: dict[int, IpAddress] = {}
    if (gateway := member.gateway(4)) and gateway.ipv4 and gateway.network.driver == BRIDGE:
        targets[4] = gateway.ipv4.ip
    if (gateway := member.gateway(6)) and gateway.ipv6 and gateway.network.driver == BRIDGE:
        targets[6] = gateway.ipv6.ip
    return targets


def _routed(member: Membership) -> frozenset[int]:
    """The IP versions whose ports are reached at the container's own address."""
    gateways = {version: member.gateway(version) for version in (4, 6)}
    return frozenset(
        version
        for version, gateway in gateways.items()
        if gateway and definition.gateway_mode(gateway.network, version) == "routed"
    )

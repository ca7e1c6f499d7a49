"""What containers on one network call each other, and the name servers inside them that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime.engine import files
from runtime.engine.networks.model import BRIDGE, Network
from runtime.engine.options import parse_link
from runtime.linux.netlink import IpAddress
from runtime.network.dns.service import DnsService
from runtime.network.dns.sockets import RESOLVER_ADDRESS, ServerSockets
from runtime.network.dns.view import NetworkView, View

if TYPE_CHECKING:
    from runtime.engine.networks.attachments import Attachment, Membership

__all__ = ["RESOLVER_ADDRESS", "Resolution"]


class Resolution:
    """Answers DNS inside the containers of user-defined networks, on 127.0.0.11 of their own namespaces."""

    def __init__(self, host_address: IpAddress | None = None) -> None:
        """`host_address` is what host.docker.internal means; None: a container's gateway."""
        self._host_address = host_address
        self._dns = DnsService()
        self._networks: dict[str, tuple[str, ...]] = {}  # by container id, those it has names on

    async def attach(self, member: Membership, netns_fd: int, known: bool = False) -> None:
        """A container is about to start, or joins its first user-defined network, or (`known`) was found running.

        `netns_fd` stays the caller's. Raises SystemFault, NotSupported or PermissionDenied.
        """
        made: ServerSockets | None = None
        if member.sandbox and isinstance(member.sandbox.furniture, ServerSockets):
            made, member.sandbox.furniture = member.sandbox.furniture, None
        await self._dns.attach(member.container.id, netns_fd, self._view(member), known, made)
        self._name(member)

    def update(self, member: Membership) -> None:
        """An attached container's networks, or its name, have changed."""
        self._dns.update(member.container.id, self._view(member))
        self._name(member)

    def detach(self, container_id: str) -> None:
        """It has ended, or left its last user-defined network; no error if it was not attached."""
        for network_id in self._networks.pop(container_id, ()):
            self._dns.names.remove(network_id, container_id)
        self._dns.detach(container_id)

    def close(self) -> None:
        """The engine ends; containers run on."""
        self._dns.close()

    def _name(self, member: Membership) -> None:
        id = member.container.id
        named = [attachment for attachment in member.attachments.values() if attachment.network.user_defined]
        networks = tuple(attachment.network.id for attachment in named)
        for network_id in set(self._networks.get(id, ())) - set(networks):
            self._dns.names.remove(network_id, id)
        self._networks[id] = networks
        for attachment in named:
            names = attachment.dns_names(member.container)
            self._dns.names.add(attachment.network.id, id, names, attachment.addresses)

    def _view(self, member: Membership) -> View:
        """What the container's name server tells it."""
        options = member.container.options
        attachments = list(member.attachments.values())
        way_out = member.gateway(4) or member.gateway(6)
        gateway = _gateways(way_out) if way_out and way_out.network.driver == BRIDGE else ()
        return View(
            tuple(_network_view(one.network, one.config.links) for one in attachments if one.network.user_defined),
            forwards=way_out is not None,
            servers=tuple(options.dns),
            ndots_set=files.ndots(options) > 0,
            host=(self._host_address,) if self._host_address and gateway else gateway,
            gateway=gateway,
        )


def _network_view(network: Network, links: Sequence[str]) -> NetworkView:
    parsed = map(parse_link, links)
    return NetworkView(network.id, network.name, {alias.lower(): name.lstrip("/").lower() for name, alias in parsed})


def _gateways(attachment: Attachment) -> tuple[IpAddress, ...]:
    versions = {address.version for address in attachment.addresses}
    gateways = (attachment.network.gateway(version) for version in sorted(versions))
    return tuple(gateway for gateway in gateways if gateway)

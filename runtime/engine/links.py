"""Legacy links (`--link NAME:ALIAS`): a container on the default bridge told of others by files and variables.

On user-defined networks a link is just a name that only one container uses: see `runtime.network.dns.view`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.engine import files
from runtime.engine.container import Container
from runtime.engine.networks import NetworkService
from runtime.engine.options import parse_link, parse_port
from runtime.errors import InvalidParameter, NotFound, SystemFault
from runtime.linux.netlink import IpAddress

NOT_PASSED_ON = ("HOME", "PATH")


@dataclass(frozen=True)
class Linked:
    """A running container as one linked to it sees it."""

    owner: str
    alias: str
    container: Container
    address: IpAddress

    @property
    def host_names(self) -> str:
        """What it is called in /etc/hosts: alias, hostname, and its name where that differs from the alias."""
        names = (self.alias, self.container.hostname, self.container.name)
        return " ".join(dict.fromkeys(names))

    def environment(self) -> list[str]:
        """NAME_PORT_80_TCP_ADDR and the like, from the ports it exposes and its own variables."""
        prefix = self.alias.upper().replace("-", "_")
        ports = sorted(map(parse_port, self.container.options.exposed), key=lambda port: (port[0], port[1] != "tcp"))
        return [
            *(f"{prefix}_PORT={self._url(*port)}" for port in ports[:1]),
            *(f"{prefix}_PORT_{line}" for group in _consecutive(ports) for line in self._range(group[0], group[-1])),
            *(f"{prefix}_PORT_{line}" for port in ports for line in self._port(*port)),
            f"{prefix}_NAME=/{self.owner}/{self.alias}",
            *(f"{prefix}_ENV_{entry}" for entry in self.container.options.env if _is_passed_on(entry)),
        ]

    def _url(self, number: int, protocol: str) -> str:
        return f"{protocol}://{self.address}:{number}"

    def _port(self, number: int, protocol: str) -> list[str]:
        name = f"{number}_{protocol.upper()}"
        return [
            f"{name}={self._url(number, protocol)}",
            f"{name}_ADDR={self.address}",
            f"{name}_PORT={number}",
            f"{name}_PROTO={protocol}",
        ]

    def _range(self, first: tuple[int, str], last: tuple[int, str]) -> list[str]:
        name = f"{first[0]}_{first[1].upper()}"
        return [
            f"{name}_START={self._url(*first)}",
            f"{name}_ADDR={self.address}",
            f"{name}_PROTO={first[1]}",
            f"{name}_PORT_START={first[0]}",
            f"{name}_END={self._url(last[0], last[1])}",
            f"{name}_PORT_END={last[0]}",
        ]


def _consecutive(ports: Sequence[tuple[int, str]]) -> Iterator[Sequence[tuple[int, str]]]:
    """Runs of three ports and more."""
    start = 0
    for index in range(1, len(ports) + 1):
        if index == len(ports) or ports[index][0] > ports[index - 1][0] + 1:
            if index - start > 2:
                yield ports[start:index]
            start = index


def _is_passed_on(entry: str) -> bool:
    name, equals, _ = entry.partition("=")
    return bool(equals) and name not in NOT_PASSED_ON


class Links:
    """Who is linked to whom, by container id: `Container.links` of all, and the way back."""

    def __init__(self, containers: Mapping[str, Container], networks: NetworkService, bundles_dir: Path) -> None:
        self._containers = containers
        self._bundles_dir = bundles_dir
        self._networks = networks
        self._parents: defaultdict[str, set[str]] = defaultdict(set)

    def resolve(self, container: Container, find: Callable[[str], Container]) -> dict[str, str]:
        """Alias → id for what a new container asks to be linked to. Raises InvalidParameter."""
        found = {}
        for link in container.options.links:
            name, alias = parse_link(link)
            try:
                child = find(name)
            except NotFound as error:
                raise InvalidParameter(f"could not get container for {name}: {error}") from error
            if child.options.network_mode == "host":
                raise InvalidParameter(
                    "conflicting options: host type networking can't be used with links. This would result in "
                    "undefined behavior"
                )
            found[alias] = child.id
        return found

    def add(self, container: Container) -> None:
        for child in container.links.values():
            self._parents[child].add(container.id)

    def remove(self, container: Container) -> None:
        """A container is gone; links to it are, too."""
        self._parents.pop(container.id, None)
        for child in container.links.values():
            self._parents[child].discard(container.id)

    def unlink(self, container: Container, alias: str) -> None:
        """`docker rm --link`: the container is no longer told of the other. Raises NotFound."""
        child = self._containers.get(container.links.get(alias, ""))
        if child is None:
            raise NotFound(f"Could not get link of /{container.name} named {alias}")
        del container.links[alias]
        container.host_config["Links"] = [
            link for link in container.host_config.get("Links") or [] if parse_link(link)[1] != alias
        ]
        if child.id not in container.links.values():
            self._parents[child.id].discard(container.id)

    def shown(self, container: Container) -> list[str] | None:
        """HostConfig.Links of inspect: `/db:/web/database`."""
        if not container.links:
            return container.host_config.get("Links") or None
        return [f"/{child.name}:/{container.name}/{alias}" for alias, child in self._children(container)]

    def linked(self, container: Container) -> list[Linked]:
        """What a container that starts is told. Raises SystemFault for one that cannot be reached."""
        return [self._linked(container, alias, child) for alias, child in self._children(container)]

    def tell_parents(self, container: Container) -> None:
        """It has started, perhaps at another address: those linked to it that run learn that by their /etc/hosts."""
        for id in self._parents.get(container.id, ()):
            parent = self._containers[id]
            for alias, child in self._children(parent):
                if child is container and parent.state.has_process:
                    linked = self._linked(parent, alias, child)
                    files.change_in_hosts(self._bundles_dir / id / "hosts", linked.host_names, linked.address)

    def _children(self, container: Container) -> list[tuple[str, Container]]:
        return [(alias, self._containers[id]) for alias, id in container.links.items() if id in self._containers]

    def _linked(self, owner: Container, alias: str, child: Container) -> Linked:
        member = self._networks.membership(child.id)
        if member is None or not child.state.is_up:
            raise SystemFault(f"Cannot link to a non running container: /{child.name} AS /{owner.name}/{alias}")
        attachment = member.attachments.get(self._networks.default.id)
        if attachment is None or not attachment.addresses:
            raise SystemFault(f"Cannot link to /{child.name}, as it does not belong to the default network")
        return Linked(owner.name, alias, child, attachment.addresses[0])

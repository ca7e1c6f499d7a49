"""What containers on one network call each other, and the interface to whoever answers their questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime.linux.netlink import IpAddress

if TYPE_CHECKING:
    from runtime.engine.networks.attachments import Membership

RESOLVER_ADDRESS = "127.0.0.11"


@dataclass(frozen=True)
class NamedEndpoint:
    """A container's interface on one network, as its neighbours know it; `names` as Docker's DNSNames."""

    container_id: str
    container_name: str
    names: tuple[str, ...]
    addresses: tuple[IpAddress, ...]


class Resolver(Protocol):
    """Answers DNS inside the containers of user-defined networks, on 127.0.0.11 of their own namespaces.

    `NetworkService.neighbours(container_id)` are the endpoints it may answer with, asked anew for every question.
    """

    def attach(self, membership: Membership, netns_fd: int, servers: Sequence[str]) -> None:
        """A container is about to start, or was found running. `netns_fd` is the caller's: duplicate what is kept.

        `servers` are asked what no neighbour is called; they are reached from the host's namespace.
        Called again with the same container when its networks changed. Raises OSError or WherryError.
        """

    def detach(self, container_id: str) -> None:
        """It has ended, or left its last user-defined network; no error if it was not attached."""

    def close(self) -> None:
        """The engine ends; containers run on."""

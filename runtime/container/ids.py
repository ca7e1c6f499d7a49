"""Users and groups of a container with a user namespace, and which ones of the host they are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runtime.linux.user_namespaces import IdRange

if TYPE_CHECKING:
    from runtime.oci.spec import IDMapping

NOBODY = 65534
"""What an id without a counterpart is shown as (/proc/sys/kernel/overflowuid)."""


class Ids(NamedTuple):
    """The maps of a user namespace, from its ids to those of the host."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    def uid_on_host(self, uid: int) -> int:
        return _outside(self.uids, uid)

    def gid_on_host(self, gid: int) -> int:
        return _outside(self.gids, gid)

    def uid_inside(self, uid: int) -> int:
        return _inside(self.uids, uid)

    def gid_inside(self, gid: int) -> int:
        return _inside(self.gids, gid)


def ids_of(uids: Sequence["IDMapping"], gids: Sequence["IDMapping"]) -> Ids:
    """The maps as config.json has them."""
    return Ids(_ranges(uids), _ranges(gids))


def _ranges(mappings: Sequence["IDMapping"]) -> tuple[IdRange, ...]:
    return tuple(IdRange(one["containerID"], one["hostID"], one["size"]) for one in mappings)


def documents(ranges: Sequence[IdRange]) -> list[Mapping[str, int]]:
    """For config.json."""
    return [{"containerID": one.inside, "hostID": one.outside, "size": one.size} for one in ranges]


def _outside(ranges: Sequence[IdRange], id: int) -> int:
    """Raises ValueError for one that is none there."""
    for one in ranges:
        if one.inside <= id < one.inside + one.size:
            return one.outside + id - one.inside
    raise ValueError(f"id {id} is outside of the container's user namespace")


def _inside(ranges: Sequence[IdRange], id: int) -> int:
    for one in ranges:
        if one.outside <= id < one.outside + one.size:
            return one.inside + id - one.outside
    return NOBODY

"""OCI mount options to mount attributes: one table (runtime-spec config.md "Linux mount options", mount(8))."""

from collections.abc import Iterable
from typing import NamedTuple

from runtime.linux import mounts

_RDONLY = mounts.MOUNT_ATTR_RDONLY
_NOSUID = mounts.MOUNT_ATTR_NOSUID
_NODEV = mounts.MOUNT_ATTR_NODEV
_NOEXEC = mounts.MOUNT_ATTR_NOEXEC
_ATIME = mounts.MOUNT_ATTR__ATIME
_NODIRATIME = mounts.MOUNT_ATTR_NODIRATIME
_NOSYMFOLLOW = mounts.MOUNT_ATTR_NOSYMFOLLOW

# name → (attributes to set, attributes to clear). With an "r" before it an option holds for the mounts below too.
_ATTRIBUTES = {
    "ro": (_RDONLY, 0),
    "rw": (0, _RDONLY),
    "nosuid": (_NOSUID, 0),
    "suid": (0, _NOSUID),
    "nodev": (_NODEV, 0),
    "dev": (0, _NODEV),
    "noexec": (_NOEXEC, 0),
    "exec": (0, _NOEXEC),
    "noatime": (mounts.MOUNT_ATTR_NOATIME, _ATIME),
    "atime": (mounts.MOUNT_ATTR_RELATIME, _ATIME),
    "relatime": (mounts.MOUNT_ATTR_RELATIME, _ATIME),
    "norelatime": (mounts.MOUNT_ATTR_RELATIME, _ATIME),
    "strictatime": (mounts.MOUNT_ATTR_STRICTATIME, _ATIME),
    "nostrictatime": (mounts.MOUNT_ATTR_RELATIME, _ATIME),
    "nodiratime": (_NODIRATIME, 0),
    "diratime": (0, _NODIRATIME),
    "nosymfollow": (_NOSYMFOLLOW, 0),
    "symfollow": (0, _NOSYMFOLLOW),
}

PROPAGATION = {
    "private": mounts.MS_PRIVATE,
    "slave": mounts.MS_SLAVE,
    "shared": mounts.MS_SHARED,
    "unbindable": mounts.MS_UNBINDABLE,
}

_MEANINGLESS = frozenset(("bind", "rbind", "defaults", "async", "nomand", "nolazytime", "noiversion", "loud"))


class Attributes(NamedTuple):
    """`options` is what is left for the filesystem itself ("size=64k")."""

    set: int = 0
    clear: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: int = 0
    propagation_recursive: bool = False
    options: tuple[str, ...] = ()


def parse(options: Iterable[str]) -> Attributes:
    """Sort `options` into attributes; a later one overrides an earlier one that says the opposite."""
    set_ = clear = recursive_set = recursive_clear = propagation = 0
    propagation_recursive = False
    rest = []
    for option in options:
        if option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            set_, clear = set_ & ~off | on, clear & ~on | off
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option[1:]]
            recursive_set, recursive_clear = recursive_set & ~off | on, recursive_clear & ~on | off
        elif option in PROPAGATION:
            propagation, propagation_recursive = PROPAGATION[option], False
        elif option[:1] == "r" and option[1:] in PROPAGATION:
            propagation, propagation_recursive = PROPAGATION[option[1:]], True
        elif option not in _MEANINGLESS:
            rest.append(option)
    return Attributes(set_, clear, recursive_set, recursive_clear, propagation, propagation_recursive, tuple(rest))


def names() -> set[str]:
    """Every option `parse` gives a meaning of its own."""
    plain = {*_ATTRIBUTES, *PROPAGATION}
    return plain | {f"r{name}" for name in plain} | _MEANINGLESS

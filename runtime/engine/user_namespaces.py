"""`--userns-remap`: whose ids of the host the users in containers are (user_namespaces(7), subuid(5)).

Unlike dockerd, nothing on the disk belongs to those ids: layers, volumes and what containers write are kept as the
container sees them, and shown with shifted owners while it runs (`runtime.container.ops_user_namespace`). So one data
root serves containers with and without a user namespace, and the option can be changed at any start.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
from pathlib import Path

from runtime.container.ids import Ids
from runtime.engine.options import Options
from runtime.errors import InvalidParameter, NotSupported
from runtime.linux import mounts
from runtime.linux.user_namespaces import IdRange, make_user_namespace

DEFAULT_USER = "dockremap"  # as dockerd's, so that one entry serves both
SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
_FIRST_ID, _IDS = 100000, 65536  # what useradd(8) gives
_NETWORK_CAPABILITIES = frozenset(("CAP_NET_ADMIN", "ALL"))

log = logging.getLogger(__name__)


def check(options: Options, ids: Ids | None) -> None:
    """Raises InvalidParameter in Docker's words for what a user namespace excludes, NotSupported for more."""
    if ids is None or options.userns_mode == "host":
        return
    if options.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if options.network_mode == "host":
        raise InvalidParameter("cannot share the host's network namespace when user namespaces are enabled")
    if options.pid_mode == "host":
        raise InvalidParameter("cannot share the host PID namespace when user namespaces are enabled")
    if _NETWORK_CAPABILITIES.intersection(options.cap_add):
        raise NotSupported(
            "--cap-add NET_ADMIN: in this version of Wherry a container with a user namespace cannot change its "
            "network: use --userns host"
        )


def parse(text: str) -> Ids:
    """`default`, `user[:group]` or `uid[:gid]`, with the ranges that /etc/subuid and /etc/subgid give them."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise InvalidParameter(f"--userns-remap {text}: write default, USER[:GROUP] or UID[:GID]")
    if text == "default":
        for path in (SUBUID, SUBGID):
            if not _ranges(path, {DEFAULT_USER}):
                _add_range(path, DEFAULT_USER)
        return Ids(_ranges(SUBUID, {DEFAULT_USER}), _ranges(SUBGID, {DEFAULT_USER}))
    try:
        account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise InvalidParameter(f"--userns-remap {text}: there is no user {user}") from None
    group = group or account.pw_name
    try:
        entry = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
    except KeyError:
        raise InvalidParameter(f"--userns-remap {text}: there is no group {group}") from None
    uids = _ranges(SUBUID, {account.pw_name, str(account.pw_uid)})
    gids = _ranges(SUBGID, {entry.gr_name, str(entry.gr_gid)})
    for path, found, name in ((SUBUID, uids, account.pw_name), (SUBGID, gids, entry.gr_name)):
        if not found:
            raise InvalidParameter(
                f"--userns-remap {text}: no ids for {name} in {path}: add a line like {name}:{_FIRST_ID}:{_IDS}"
            )
    return Ids(uids, gids)


def check_host(directory: Path, ids: Ids) -> None:
    """Raises NotSupported if what is kept in `directory` cannot be shown to a user namespace.

    To be called while the process has one thread.
    """
    try:
        namespace = make_user_namespace(ids.uids, ids.gids)
    except OSError as error:
        raise NotSupported(f"--userns-remap: this host makes no user namespace: {error.strerror}") from None
    try:
        tree = mounts.open_tree(str(directory))
        try:
            mounts.shift_owners(tree, namespace)
        finally:
            os.close(tree)
    except OSError as error:
        raise NotSupported(
            f"--userns-remap: {directory} is on a file system whose owners cannot be shifted ({error.strerror}): use "
            "one with idmapped mounts (ext4, xfs, btrfs; tmpfs from Linux 6.3 on)"
        ) from None
    finally:
        os.close(namespace)


def _lines(path: Path) -> list[tuple[str, int, int]]:
    """subuid(5): who, the first id, how many; what is no such line is passed over."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    fields = (line.strip().split(":") for line in text.splitlines())
    return [(who, int(first), int(size)) for who, first, size in (f for f in fields if len(f) == 3 and _are_numbers(f))]


def _are_numbers(fields: list[str]) -> bool:
    return fields[1].isdecimal() and fields[2].isdecimal()


def _ranges(path: Path, names: set[str]) -> tuple[IdRange, ...]:
    """What these names have, one after the other from 0 on."""
    ranges: list[IdRange] = []
    inside = 0
    for who, first, size in _lines(path):
        if who in names and size:
            ranges.append(IdRange(inside, first, size))
            inside += size
    return tuple(ranges)


def _add_range(path: Path, name: str) -> None:
    """The next free one, as useradd(8) does."""
    first = max([_FIRST_ID, *(start + size for _, start, size in _lines(path))])
    with path.open("a") as file:
        file.write(f"{name}:{first}:{_IDS}\n")
    log.info("%s: %s has the ids from %d on now", path, name, first)

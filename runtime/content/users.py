"""Who a container's process runs as: `--user` resolved against the image's own passwd and group files.

Semantics and sentences are Docker's (github.com/moby/sys/user, GetExecUser and GetAdditionalGroups): what
looks like a number is one, a number needs no entry, and one that has an entry gets its groups and home too.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.errors import InvalidParameter

PASSWD_PATH = "/etc/passwd"
GROUP_PATH = "/etc/group"
_ID_MAX = 2**31 - 1
_REMEMBERED = 64
_REMEMBERED_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class ResolvedUser:
    """`additional_gids` begins with `gid`: setgroups(2) to anything else would lift what is denied to the
    primary group (CVE-2022-36109)."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _PasswdEntry:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _GroupEntry:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(
    spec: str, passwd: bytes | None, group: bytes | None, extra_groups: Sequence[str] = ()
) -> ResolvedUser:
    """Resolves `spec`: "" (root), a user or uid, and after a colon a group or gid.

    `passwd` and `group` are the files' contents, None when the image has none. `extra_groups` are `--group-add`
    names or numbers. Raises InvalidParameter: no such user or group, or a number out of range.
    """
    small = len(passwd or b"") + len(group or b"") <= _REMEMBERED_BYTES_MAX
    return (_resolved if small else _resolved.__wrapped__)(spec, passwd, group, tuple(extra_groups))


@functools.lru_cache(_REMEMBERED)
def _resolved(spec: str, passwd: bytes | None, group: bytes | None, extra_groups: Sequence[str]) -> ResolvedUser:
    user, _, wanted_group = spec.partition(":")
    account = _find_account(user, passwd or b"")
    groups = list(_groups(group or b"")) if wanted_group or account.name or extra_groups else []
    gid = account.gid
    supplementary: list[int] = []
    if wanted_group:
        gid = _find_group(wanted_group, groups)
    elif account.name:
        supplementary = [entry.gid for entry in groups if account.name in entry.members]
    supplementary += [_find_group(name, groups) for name in extra_groups]
    return ResolvedUser(_checked(account.uid), _checked(gid), tuple(dict.fromkeys([gid, *supplementary])), account.home)


def _find_account(user: str, passwd: bytes) -> _PasswdEntry:
    number = _number(user) if user else 0
    for entry in _accounts(passwd):
        if (entry.uid == number) if number is not None else (entry.name == user):
            return entry
    if number is None:
        raise InvalidParameter(f"unable to find user {user}: no matching entries in passwd file")
    return _PasswdEntry("", number, 0, "/")


def _find_group(wanted: str, groups: Sequence[_GroupEntry]) -> int:
    number = _number(wanted)
    for entry in groups:
        if (entry.gid == number) if number is not None else (entry.name == wanted):
            return _checked(entry.gid)
    if number is None:
        raise InvalidParameter(f"unable to find group {wanted}: no matching entries in group file")
    return _checked(number)


def _checked(number: int) -> int:
    if not 0 <= number <= _ID_MAX:
        raise InvalidParameter(f"uids and gids must be in range 0-{_ID_MAX}")
    return number


def _accounts(passwd: bytes) -> Iterator[_PasswdEntry]:
    """passwd(5): name:password:UID:GID:GECOS:directory:shell. Lines that are not are passed over."""
    for fields in _lines(passwd):
        if len(fields) >= 6 and (uid := _number(fields[2])) is not None:
            yield _PasswdEntry(fields[0], uid, _number(fields[3]) or 0, fields[5] or "/")


def _groups(group: bytes) -> Iterator[_GroupEntry]:
    """group(5): name:password:GID:members, these separated by commas."""
    for fields in _lines(group):
        if len(fields) >= 3 and (gid := _number(fields[2])) is not None:
            members = fields[3].split(",") if len(fields) > 3 else ()
            yield _GroupEntry(fields[0], gid, tuple(members))


def _lines(content: bytes) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        if line and not line.startswith("#"):
            yield line.strip().split(":")


def _number(text: str) -> int | None:
    """As Go's strconv.Atoi: ASCII digits with an optional sign."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    return int(text) if digits.isascii() and digits.isdigit() else None

"""Capability sets of the calling thread (capabilities(7), capset(2), prctl(2)).

Everything here works on names ("CAP_CHOWN") and runs in a forked child just before exec, so it imports next
to nothing. Raises OSError with the kernel's errno; an unknown name is EINVAL with the name as `filename`.
"""

import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from runtime.linux.libc import os_error

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_IS_SET = 1
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# linux/capability.h: the position is the number.
_KNOWN = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


class Capabilities(NamedTuple):
    """The five sets of a thread, as names."""

    effective: frozenset[str]
    permitted: frozenset[str]
    inheritable: frozenset[str]
    bounding: frozenset[str]
    ambient: frozenset[str]


def _known_to_kernel() -> dict[str, int]:
    # Asking about a number past the kernel's last capability is EINVAL: no /proc needed.
    last = len(_KNOWN)
    while last and _prctl(_PR_CAPBSET_READ, last - 1, 0, 0, 0) < 0:
        last -= 1
    return {name: number for number, name in enumerate(_KNOWN[:last])}


NAMES: dict[str, int] = _known_to_kernel()
"""Every capability this kernel and this module know: name → number."""


def get() -> Capabilities:
    """Return the sets of the calling thread."""
    data = (_Data * 2)()
    if _libc.capget(ctypes.byref(_header()), data) < 0:
        raise os_error()
    low, high = data
    return Capabilities(
        effective=_names(low.effective | high.effective << 32),
        permitted=_names(low.permitted | high.permitted << 32),
        inheritable=_names(low.inheritable | high.inheritable << 32),
        bounding=_set_members(lambda number: _prctl(_PR_CAPBSET_READ, number, 0, 0, 0)),
        ambient=_set_members(lambda number: _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET, number, 0, 0)),
    )


def bounding_drop(keep: Collection[str]) -> None:
    """Drop from the bounding set whatever is not in `keep`; needs CAP_SETPCAP.

    A name in `keep` that is already outside the set is no error: nothing can bring it back anyway.
    """
    kept = _mask(keep)
    # Past NAMES too: a kernel newer than this module must not leave a capability in the set.
    for number in itertools.count():
        if number < len(NAMES) and kept >> number & 1:
            continue
        if _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            failure = os_error()
            member = _prctl(_PR_CAPBSET_READ, number, 0, 0, 0)
            if member < 0:  # the kernel has no more
                return
            if member:
                raise failure


def set_caps(effective: Iterable[str], permitted: Iterable[str], inheritable: Iterable[str]) -> None:
    """Replace the effective, permitted and inheritable sets of the calling thread (capset(2), version 3)."""
    masks = _mask(effective), _mask(permitted), _mask(inheritable)
    data = (_Data * 2)(
        _Data(*(mask & 0xFFFFFFFF for mask in masks)),
        _Data(*(mask >> 32 for mask in masks)),
    )
    if _libc.capset(ctypes.byref(_header()), data) < 0:
        raise os_error()


def set_ambient(names: Iterable[str]) -> None:
    """Replace the ambient set; every name must already be permitted and inheritable, else EPERM."""
    numbers = [_number(name) for name in names]
    if _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0:
        raise os_error()
    for number in numbers:
        if _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0:
            raise os_error()


def _header() -> _Header:
    return _Header(_LINUX_CAPABILITY_VERSION_3, 0)


def _number(name: str) -> int:
    try:
        return NAMES[name]
    except KeyError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name) from None


def _mask(names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        mask |= 1 << _number(name)
    return mask


def _names(mask: int) -> frozenset[str]:
    return frozenset(name for name, number in NAMES.items() if mask >> number & 1)


def _set_members(is_member: Callable[[int], int]) -> frozenset[str]:
    return frozenset(name for name, number in NAMES.items() if is_member(number) > 0)

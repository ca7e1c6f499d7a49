"""Options of the local driver, as Docker's has them: type, device and o of mount(8), and size (refused)."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from runtime.errors import InvalidParameter, SystemFault
from runtime.linux import mounts

# What each option asks to be given along with it.
REQUIRES: Mapping[str, tuple[str, ...]] = {
    "device": ("type",),
    "type": ("device",),
    "o": ("device", "type"),
    "size": (),
}
_SIZE = re.compile(r"\d+(\.\d+)? ?([kmgtp]i?)?b?", re.IGNORECASE)

# Words of `o` that are flags of mount(2): name → (flag, cleared instead of set).
FLAGS: Mapping[str, tuple[int, bool]] = {
    "defaults": (0, False),
    "ro": (mounts.MS_RDONLY, False),
    "rw": (mounts.MS_RDONLY, True),
    "nosuid": (mounts.MS_NOSUID, False),
    "suid": (mounts.MS_NOSUID, True),
    "nodev": (mounts.MS_NODEV, False),
    "dev": (mounts.MS_NODEV, True),
    "noexec": (mounts.MS_NOEXEC, False),
    "exec": (mounts.MS_NOEXEC, True),
    "sync": (mounts.MS_SYNCHRONOUS, False),
    "async": (mounts.MS_SYNCHRONOUS, True),
    "dirsync": (mounts.MS_DIRSYNC, False),
    "remount": (mounts.MS_REMOUNT, False),
    "mand": (mounts.MS_MANDLOCK, False),
    "nomand": (mounts.MS_MANDLOCK, True),
    "noatime": (mounts.MS_NOATIME, False),
    "atime": (mounts.MS_NOATIME, True),
    "nodiratime": (mounts.MS_NODIRATIME, False),
    "diratime": (mounts.MS_NODIRATIME, True),
    "relatime": (mounts.MS_RELATIME, False),
    "norelatime": (mounts.MS_RELATIME, True),
    "strictatime": (mounts.MS_STRICTATIME, False),
    "nostrictatime": (mounts.MS_STRICTATIME, True),
    "bind": (mounts.MS_BIND, False),
    "rbind": (mounts.MS_BIND | mounts.MS_REC, False),
}
PROPAGATION: Mapping[str, int] = {
    prefix + name: flag | recursive
    for prefix, recursive in (("", 0), ("r", mounts.MS_REC))
    for name, flag in (
        ("private", mounts.MS_PRIVATE),
        ("shared", mounts.MS_SHARED),
        ("slave", mounts.MS_SLAVE),
        ("unbindable", mounts.MS_UNBINDABLE),
    )
}


def check(options: Mapping[str, str]) -> None:
    """Raises InvalidParameter for options no volume can be made with."""
    for name, value in options.items():
        if name not in REQUIRES:
            raise InvalidParameter(f'invalid option: "{name}"')
        if not isinstance(value, str) or "\0" in value:
            raise InvalidParameter(f'invalid value of option "{name}": a string is needed')
    if "size" in options:
        if not _SIZE.fullmatch(options["size"]):
            raise InvalidParameter(f"invalid size: '{options['size']}'")
        raise InvalidParameter(
            "quota size requested but no quota support: leave the size option out, or use type=tmpfs with o=size=…"
        )
    if options.get("type") == "cifs" and _port(options.get("device", "")):
        raise InvalidParameter("port not allowed in CIFS device URL, include 'port' in 'o='")
    for name in options:
        for required in REQUIRES[name]:
            if required not in options:
                raise InvalidParameter(f'missing required option: "{required}"')


def _port(device: str) -> bool:
    try:
        return urlsplit(device).port is not None
    except ValueError as error:
        raise InvalidParameter(f"error parsing mount device url: {error}") from None


@dataclass(frozen=True)
class MountCall:
    """Arguments of mount(2), and the propagation to set afterwards (0: none)."""

    device: str
    fstype: str
    flags: int
    data: str
    propagation: int = 0


def _resolve(host: str) -> str:
    """The address of `host`; blocks. Raises SystemFault."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise SystemFault(
            f"error resolving passed in network volume address: lookup {host}: {error.strerror}"
        ) from None


def mount_call(options: Mapping[str, str], resolve: Callable[[str], str] = _resolve) -> MountCall:
    """What mounts such a volume; asks the resolver for names of NFS and CIFS servers. Raises InvalidParameter."""
    device, fstype = options.get("device", ""), options.get("type", "")
    if not device:
        raise InvalidParameter("missing device in volume options")
    words = [word for word in options.get("o", "").split(",") if word]
    if fstype in ("nfs", "nfs4", "cifs"):
        words = [_with_address(word, resolve) for word in words]
        if fstype == "cifs" and not any(word.startswith("addr=") for word in words):
            device = _with_address_in_url(device, resolve)
    flags, propagation, data = 0, 0, []
    for word in words:
        if word in FLAGS:
            flag, cleared = FLAGS[word]
            flags = flags & ~flag if cleared else flags | flag
        elif word in PROPAGATION:
            propagation |= PROPAGATION[word]
        else:
            data.append(word)
    return MountCall(device, fstype, flags, ",".join(data), propagation)


def _with_address(word: str, resolve: Callable[[str], str]) -> str:
    host = word.removeprefix("addr=")
    return word if host == word or not host or _is_address(host) else f"addr={resolve(host)}"


def _with_address_in_url(device: str, resolve: Callable[[str], str]) -> str:
    parts = urlsplit(device)
    if not parts.hostname or _is_address(parts.hostname):
        return device
    return urlunsplit(parts._replace(netloc=resolve(parts.hostname)))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def without_password(text: str) -> str:
    """`text` fit to be shown: options of CIFS hold a password."""
    return re.sub(r"password=[^,]*", "password=********", text)

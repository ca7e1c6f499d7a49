"""A machine's settings and the file they live in.

The file carries its schema's version. An older one is brought up to date when read, a newer one is refused: a
program that does not know a setting must not drop it.

Schema 2 added swap, DNS servers, proxies, certificates, the subnet, shares, start at login, the idle pause and saving.
"""

import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vmbackend.errors import InvalidSettings

SCHEMA = 2

_MIN_MEMORY_MIB = 256
_MIN_DISK_GIB = 1
_LONGEST_SUBNET_PREFIX = 27
_ACCELERATORS = ("auto", "kvm", "hvf", "whpx", "tcg")


def _default_cpus() -> int:
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class MachineSettings:
    """What a person may choose about a machine; `setting_keys` says when a change takes effect.

    - `publish_address`: this computer's address for ports published without one.
    - `subnet`: the guest's network; this computer is its .2, the name server its .3, the guest its .15. "" for the
      image's own.
    - `dns`: addresses of name servers instead of this computer's own.
    - `http_proxy`, `https_proxy`, `no_proxy`: for the engine's pulls and pushes; "" for none. A proxy on this
      computer's loopback is meant as this computer sees it.
    - `ca_certificates`: files (PEM) with authorities the engine trusts besides the usual ones.
    - `shares`: folders of this computer which the guest sees, `PATH` or `PATH:ro`; `~` is the user's home.
    - `start_at_login`: start the machine when the user logs in.
    - `idle_pause_s`: with no container running, its processors pause after this time without use; 0 for never.
    - `save_on_stop`: a stop keeps the memory and the next start goes on from there, instead of powering off.
    - `qemu_dir`, `image_dir` replace the search for QEMU and for the guest image.
    """

    cpus: int = _default_cpus()
    memory_mib: int = 2048
    swap_mib: int = 0
    disk_gib: int = 64
    accelerator: str = "auto"
    publish_address: str = "127.0.0.1"
    subnet: str = ""
    dns: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    ca_certificates: tuple[str, ...] = ()
    shares: tuple[str, ...] = ("~",)
    start_at_login: bool = False
    idle_pause_s: int = 300
    save_on_stop: bool = True
    qemu_dir: str | None = None
    image_dir: str | None = None

    def validate(self) -> None:
        """Raises InvalidSettings naming the first setting that cannot be used."""
        for name, (is_good, expected) in _RULES.items():
            value = getattr(self, name)
            try:
                good = is_good(value)
            except (ValueError, TypeError, AttributeError):
                good = False
            if not good:
                raise InvalidSettings(f"The setting `{name}` is {value!r}, but has to be {expected}.")


def _whole(least: int, most: int = 2**31) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_ipv4(value: Any) -> bool:
    return isinstance(value, str) and bool(ipaddress.IPv4Address(value))


def _is_subnet(value: Any) -> bool:
    if value == "":
        return True
    network = ipaddress.IPv4Network(value)
    return isinstance(value, str) and network.is_private and network.prefixlen <= _LONGEST_SUBNET_PREFIX


def _is_name_servers(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_ipv4(server) for server in value)


def _is_proxy(value: Any) -> bool:
    if value == "":
        return True
    url = urlsplit(value)
    return _is_line(value) and url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0


def _is_line(value: Any) -> bool:
    """Free text that ends up on a line of a file in the guest: a line break would begin another setting."""
    return isinstance(value, str) and value.isprintable()


def _is_paths(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_line(path) and path for path in value)


def _is_optional_path(value: Any) -> bool:
    return value is None or (_is_line(value) and value != "")


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "cpus": (_whole(1, 255), "a number from 1 to 255"),
    "memory_mib": (_whole(_MIN_MEMORY_MIB), f"at least {_MIN_MEMORY_MIB} MiB"),
    "swap_mib": (_whole(0), "a number of MiB, 0 for none"),
    "disk_gib": (_whole(_MIN_DISK_GIB), f"at least {_MIN_DISK_GIB} GiB"),
    "accelerator": (lambda value: value in _ACCELERATORS, f"one of {', '.join(_ACCELERATORS)}"),
    "publish_address": (_is_ipv4, "an IPv4 address such as 127.0.0.1 or 0.0.0.0"),
    "subnet": (
        _is_subnet,
        f"empty or a private IPv4 network, at least a /{_LONGEST_SUBNET_PREFIX}: 192.168.77.0/24",
    ),
    "dns": (_is_name_servers, "IPv4 addresses of name servers"),
    "http_proxy": (_is_proxy, "empty or a URL such as http://proxy.example.com:3128"),
    "https_proxy": (_is_proxy, "empty or a URL such as http://proxy.example.com:3128"),
    "no_proxy": (_is_line, "hosts, domains and networks with commas between them"),
    "ca_certificates": (_is_paths, "paths of files with certificates"),
    "shares": (_is_paths, "paths of folders, each with `:ro` if it is only to be read"),
    "start_at_login": (_is_flag, "true or false"),
    "idle_pause_s": (_whole(0), "a number of seconds, 0 for never"),
    "save_on_stop": (_is_flag, "true or false"),
    "qemu_dir": (_is_optional_path, "a folder"),
    "image_dir": (_is_optional_path, "a folder"),
}

# A step for each older schema, which makes of its document one of the next. New settings need none: they have defaults.
_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda document: document,
}


def settings_from_json(text: str, source: Path) -> MachineSettings:
    """Parse and validate a settings file's text. Raises InvalidSettings naming `source`."""
    try:
        document: dict[str, Any] = json.loads(text)
        schema = document.pop("schema")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InvalidSettings(
            f"The settings file {source} is not readable ({error}); restore it, or delete it to get the defaults."
        ) from error
    while schema in _MIGRATIONS:
        document = _MIGRATIONS[schema](document)
        schema += 1
    if schema != SCHEMA:
        raise InvalidSettings(
            f"The settings file {source} has schema {schema}, but this version of Wherry knows {SCHEMA}; "
            "update Wherry, or delete the file to get the defaults."
        )
    unknown = document.keys() - {field.name for field in fields(MachineSettings)}
    if unknown:
        raise InvalidSettings(f"The settings file {source} has the unknown setting `{min(unknown)}`; remove it.")
    settings = MachineSettings(**{name: _from_json(value) for name, value in document.items()})
    try:
        settings.validate()
    except InvalidSettings as error:
        raise InvalidSettings(f"The settings file {source} cannot be used: {error}") from None
    return settings


def settings_to_json(settings: MachineSettings) -> str:
    return json.dumps({"schema": SCHEMA, **asdict(settings)}, indent=2) + "\n"


def _from_json(value: Any) -> Any:
    """JSON has lists where settings have tuples."""
    return tuple(value) if isinstance(value, list) else value

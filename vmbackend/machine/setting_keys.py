"""A machine's settings by the names and in the words a person writes them in: `memory=4G`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vmbackend.errors import InvalidSettings
from vmbackend.machine.config import MachineSettings

_SIZE = re.compile(r"(\d+)([MGT]?)(?:i?B)?", re.IGNORECASE)
_MIB_OF_UNIT = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

# "now": a running machine follows at once; "restart": once it has been off.
Effect = Literal["now", "restart"]


@dataclass(frozen=True)
class SettingKey:
    """`field` of MachineSettings; `parse` raises ValueError, whose text says what is expected."""

    field: str
    help: str
    effect: Effect
    parse: Callable[[str], Any]
    text: Callable[[Any], str] = str


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a number")
    return int(text)


def _mib(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a size such as 2048M or 4G")
    return int(match[1]) * _MIB_OF_UNIT[match[2].upper()]


def _gib(text: str) -> int:
    mib = _mib(f"{text}G" if text.isdecimal() else text)
    if mib % 1024:
        raise ValueError("a whole number of GiB such as 64G")
    return mib // 1024


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError("true or false")
    return _FLAGS[text.lower()]


def _flag_text(value: bool) -> str:
    return "true" if value else "false"


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _optional(text: str) -> str | None:
    return text or None


def _or_nothing(value: str | None) -> str:
    return value or ""


def _size(field: str, help: str, effect: Effect, parse: Callable[[str], int], unit: str) -> SettingKey:
    return SettingKey(field, help, effect, parse, lambda size: f"{size}{unit}")


def _texts(field: str, help: str, effect: Effect = "restart") -> SettingKey:
    return SettingKey(field, help, effect, _list, ",".join)


SETTING_KEYS: Mapping[str, SettingKey] = {
    "cpus": SettingKey("cpus", "number of processors", "restart", _number),
    "memory": _size("memory_mib", "2G, or MiB as a number", "restart", _mib, "M"),
    "swap": _size("swap_mib", "swap file on the machine's disk: 1G, or MiB as a number; 0: none", "restart", _mib, "M"),
    "disk": _size("disk_gib", "64G, or GiB as a number; a disk can only grow", "now", _gib, "G"),
    "accelerator": SettingKey("accelerator", "auto, kvm, hvf, whpx or tcg", "restart", str),
    "publish_address": SettingKey(
        "publish_address", "this computer's address for published ports (127.0.0.1; 0.0.0.0: all)", "restart", str
    ),
    "subnet": SettingKey("subnet", "the machine's own network, 192.168.77.0/24; empty: 10.0.2.0/24", "restart", str),
    "dns": _texts("dns", "name servers, with commas; empty: those of this computer"),
    "http_proxy": SettingKey("http_proxy", "proxy for the engine's pulls over HTTP", "restart", str),
    "https_proxy": SettingKey("https_proxy", "proxy for the engine's pulls over HTTPS", "restart", str),
    "no_proxy": SettingKey("no_proxy", "hosts reached without a proxy, with commas", "restart", str),
    "ca_certificates": _texts("ca_certificates", "files of certificates to trust (PEM), with commas"),
    "shares": _texts("shares", "folders the machine sees, PATH or PATH:ro, with commas; ~ is your home", "now"),
    "start_at_login": SettingKey("start_at_login", "start it when you log in", "now", _flag, _flag_text),
    "idle_pause_s": SettingKey("idle_pause_s", "seconds without use until it pauses; 0: never", "now", _number),
    "save_on_stop": SettingKey("save_on_stop", "keep the memory when it stops", "now", _flag, _flag_text),
    "qemu_dir": SettingKey(
        "qemu_dir", "folder with QEMU's programs; empty: look for them", "restart", _optional, _or_nothing
    ),
    "image_dir": SettingKey(
        "image_dir", "folder with the guest image; empty: look for it", "restart", _optional, _or_nothing
    ),
}


def changed_settings(settings: MachineSettings, changes: Mapping[str, str]) -> MachineSettings:
    """The settings with some of them as a person wrote them. Raises InvalidSettings naming the key."""
    values = {}
    for name, text in changes.items():
        key = SETTING_KEYS.get(name)
        if key is None:
            raise InvalidSettings(f"There is no setting `{name}`; there are {', '.join(SETTING_KEYS)}.")
        try:
            values[key.field] = key.parse(text)
        except ValueError as expected:
            raise InvalidSettings(f"The setting `{name}` is {text!r}, but has to be {expected}.") from None
    changed = replace(settings, **values)
    changed.validate()
    return changed


def setting_texts(settings: MachineSettings) -> dict[str, str]:
    """All settings, in the words `changed_settings` takes."""
    return {name: key.text(getattr(settings, key.field)) for name, key in SETTING_KEYS.items()}


def followed(running: MachineSettings, saved: MachineSettings) -> MachineSettings:
    """What a machine that runs with some settings makes of others: it follows those it can."""
    now = [key.field for key in SETTING_KEYS.values() if key.effect == "now"]
    return replace(running, **{field: getattr(saved, field) for field in now})


def changed_keys(before: MachineSettings, after: MachineSettings) -> tuple[str, ...]:
    """The names of the settings that differ."""
    return tuple(name for name, key in SETTING_KEYS.items() if getattr(before, key.field) != getattr(after, key.field))

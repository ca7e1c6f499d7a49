"""A machine's settings by the names and in the words a person writes them in: `memory=4G`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vmbackend.errors import InvalidSettings
from vmbackend.machine.config import MachineSettings

_SIZE = re.compile(r"(\d+)([MGT]?)(?:i?B)?", re.IGNORECASE)
_MIB_OF_UNIT = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}


@dataclass(frozen=True)
class SettingKey:
    """`field` of MachineSettings; `parse` raises ValueError, whose text says what is expected."""

    field: str
    help: str
    parse: Callable[[str], Any]
    text: Callable[[Any], str] = str


def _number(text: str) -> int:
    if not text.isdigit():
        raise ValueError("a number")
    return int(text)


def _mib(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a size such as 2048M or 4G")
    return int(match[1]) * _MIB_OF_UNIT[match[2].upper()]


def _gib(text: str) -> int:
    mib = _mib(f"{text}G" if text.isdigit() else text)
    if mib % 1024:
        raise ValueError("a whole number of GiB such as 64G")
    return mib // 1024


def _optional(text: str) -> str | None:
    return text or None


def _or_nothing(value: str | None) -> str:
    return value or ""


SETTING_KEYS: Mapping[str, SettingKey] = {
    "cpus": SettingKey("cpus", "number of processors", _number),
    "memory": SettingKey("memory_mib", "2G, or MiB as a number", _mib, lambda mib: f"{mib}M"),
    "disk": SettingKey("disk_gib", "64G, or GiB as a number; a disk can only grow", _gib, lambda gib: f"{gib}G"),
    "accelerator": SettingKey("accelerator", "auto, kvm, hvf, whpx or tcg", str),
    "publish_address": SettingKey("publish_address", "this computer's address for published ports", str),
    "qemu_dir": SettingKey("qemu_dir", "folder with QEMU's programs; empty: look for them", _optional, _or_nothing),
    "image_dir": SettingKey("image_dir", "folder with the guest image; empty: look for it", _optional, _or_nothing),
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


def changed_keys(before: MachineSettings, after: MachineSettings) -> tuple[str, ...]:
    return tuple(name for name, key in SETTING_KEYS.items() if getattr(before, key.field) != getattr(after, key.field))

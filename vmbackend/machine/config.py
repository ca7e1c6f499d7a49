"""A machine's settings and the file they live in.

The file carries its schema's version. An older one is brought up to date when read, a newer one is refused: a
program that does not know a setting must not drop it.
"""

import ipaddress
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vmbackend.errors import InvalidSettings

SCHEMA = 1

_MIN_MEMORY_MIB = 256
_MIN_DISK_GIB = 1
_ACCELERATORS = ("auto", "kvm", "hvf", "whpx", "tcg")


def _default_cpus() -> int:
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class MachineSettings:
    """What a person may choose about a machine. Changes take effect at the next start.

    `publish_address` is the host's address for ports published without one; `qemu_dir` and `image_dir`
    replace the search for QEMU and for the guest image.
    """

    cpus: int = _default_cpus()
    memory_mib: int = 2048
    disk_gib: int = 64
    accelerator: str = "auto"
    publish_address: str = "127.0.0.1"
    qemu_dir: str | None = None
    image_dir: str | None = None

    def validate(self) -> None:
        """Raises InvalidSettings naming the first setting that cannot be used."""
        _require(isinstance(self.cpus, int) and 1 <= self.cpus <= 255, "cpus", self.cpus, "a number from 1 to 255")
        _require(
            isinstance(self.memory_mib, int) and self.memory_mib >= _MIN_MEMORY_MIB,
            "memory_mib",
            self.memory_mib,
            f"at least {_MIN_MEMORY_MIB} MiB",
        )
        _require(
            isinstance(self.disk_gib, int) and self.disk_gib >= _MIN_DISK_GIB,
            "disk_gib",
            self.disk_gib,
            f"at least {_MIN_DISK_GIB} GiB",
        )
        _require(
            self.accelerator in _ACCELERATORS, "accelerator", self.accelerator, f"one of {', '.join(_ACCELERATORS)}"
        )
        try:
            ipaddress.IPv4Address(self.publish_address)
        except ValueError:
            _require(False, "publish_address", self.publish_address, "an IPv4 address such as 127.0.0.1 or 0.0.0.0")


def settings_from_json(text: str, source: Path) -> MachineSettings:
    """Parse and validate a settings file's text. Raises InvalidSettings naming `source`."""
    try:
        document: dict[str, Any] = json.loads(text)
        schema = document.pop("schema")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InvalidSettings(
            f"The settings file {source} is not readable ({error}); restore it, or delete it to get the defaults."
        ) from error
    if schema != SCHEMA:
        raise InvalidSettings(
            f"The settings file {source} has schema {schema}, but this version of Wherry knows {SCHEMA}; "
            "update Wherry, or delete the file to get the defaults."
        )
    unknown = document.keys() - {field.name for field in fields(MachineSettings)}
    if unknown:
        raise InvalidSettings(f"The settings file {source} has the unknown setting `{min(unknown)}`; remove it.")
    settings = MachineSettings(**document)
    try:
        settings.validate()
    except InvalidSettings as error:
        raise InvalidSettings(f"The settings file {source} cannot be used: {error}") from None
    return settings


def settings_to_json(settings: MachineSettings) -> str:
    return json.dumps({"schema": SCHEMA, **asdict(settings)}, indent=2) + "\n"


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InvalidSettings(f"The setting `{name}` is {value!r}, but has to be {expected}.")

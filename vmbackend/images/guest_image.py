"""Find a guest image and make sure that it is what its contract says.

Facts about the guest travel as data in `contract.json` (schema 1), never as knowledge in this package.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmbackend.errors import GuestImageDamaged, GuestImageMissing, InvalidSettings
from vmbackend.machine.store import write_atomically

SCHEMA = 1
CONTRACT = "contract.json"
_ROLES = ("kernel", "initramfs", "system")
_FIRST_STORE_SCHEMA = 2  # of the images whose contract does not tell it
_REMEMBERED_FILES = 32


@dataclass(frozen=True)
class GuestImage:
    """A contract, with its files' paths.

    `digest` is the contract's, which has those of the files. `emulated_cmdline` is added to `cmdline` for an emulated
    x86 guest, with `{tsc_khz}` filled in. `fw_cfg` maps what the host hands in to firmware configuration names.
    `ports_channel` is the name of the virtio port on which the guest's engine asks for ports. `store_schema` counts the
    shapes of the engine's store: an engine reads those up to its own. `engine_ended_line` is what the console shows
    each time the engine ends ("" when it does not).

    `hold_cmdline` makes the guest stop before it reads its data disk, with `held_line`, until it is told on its
    console to go on, by a line with the time in seconds and some randomness; `hold_over_line` follows. All are empty
    where the image does not know that.
    """

    directory: Path
    version: str
    digest: str
    arch: str
    kernel: Path
    initramfs: Path
    system: Path
    cmdline: str
    emulated_cmdline: str
    machines: tuple[str, ...]
    system_serial: str
    data_serial: str
    fw_cfg: Mapping[str, str]
    address: str
    gateway: str
    dns: str
    ssh_port: int
    ssh_user: str
    ports_channel: str
    engine_socket: str
    ready_line: str
    ssh_ready_line: str
    poweroff_command: str
    grow_data_disk_command: str
    store_schema: int = _FIRST_STORE_SCHEMA
    engine_ended_line: str = ""
    hold_cmdline: str = ""
    held_line: str = ""
    hold_over_line: str = ""

    @property
    def label(self) -> str:
        """For people, who may see several images of one version while it is being made."""
        return f"{self.version} ({self.digest[:8]})"

    def is_of_older_version(self, other: "GuestImage") -> bool:
        return _numbers(self.version) < _numbers(other.version)


def find_guest_image(arch: str, directory: str | None = None) -> GuestImage:
    """The image for `arch`; a `directory` is the only place looked at.

    Sizes are compared each time, contents by `verify_contents`. Raises GuestImageMissing, GuestImageDamaged,
    InvalidSettings when the directory has none.
    """
    if directory is not None:
        if not (Path(directory) / CONTRACT).is_file():
            raise InvalidSettings(
                f"The setting `image_dir` names {directory}, but no {CONTRACT} is there; "
                "correct the setting or remove it."
            )
        return load_guest_image(Path(directory), arch)
    for place in _places(arch):
        if (place / CONTRACT).is_file():
            return load_guest_image(place, arch)
    raise GuestImageMissing(
        f"The guest image for {arch} is missing: run `make guest`, or set `image_dir` to a folder with one."
    )


def load_guest_image(directory: Path, arch: str) -> GuestImage:
    """The image in that folder. Raises GuestImageDamaged."""
    text = _read_contract(directory)
    path = directory / CONTRACT
    contract: dict[str, Any] = json.loads(text)
    try:
        if contract["arch"] != arch:
            raise _damaged(path, f"it is for {contract['arch']}, and this computer needs {arch}")
        files = {role: directory / contract["files"][role]["name"] for role in _ROLES}
        for role, file in files.items():
            size = file.stat().st_size if file.is_file() else None
            if size != contract["files"][role]["size_bytes"]:
                raise _damaged(file, "it is missing" if size is None else f"it has {size} bytes")
        hold = contract.get("hold", {})
        return GuestImage(
            directory=directory,
            version=contract["version"],
            digest=hashlib.sha256(text).hexdigest(),
            arch=arch,
            cmdline=contract["cmdline"],
            emulated_cmdline=contract["cmdline_tcg"],
            machines=tuple(contract["machines"]),
            system_serial=contract["system_serial"],
            data_serial=contract["data_serial"],
            fw_cfg=contract["fw_cfg"],
            address=contract["network"]["address"],
            gateway=contract["network"]["gateway"],
            dns=contract["network"]["dns"],
            ssh_port=contract["ssh"]["port"],
            ssh_user=contract["ssh"]["user"],
            ports_channel=contract["ports_channel"],
            engine_socket=contract["engine_socket"],
            ready_line=contract["ready"],
            ssh_ready_line=contract["ssh"]["ready"],
            poweroff_command=contract["poweroff"],
            grow_data_disk_command=contract["grow_data_disk"],
            store_schema=contract.get("store_schema", _FIRST_STORE_SCHEMA),
            engine_ended_line=contract.get("engine_ended", ""),
            hold_cmdline=hold.get("cmdline", ""),
            held_line=hold.get("held", ""),
            hold_over_line=hold.get("over", ""),
            **files,
        )
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"it lacks {error}") from error


def image_files(image: GuestImage) -> tuple[Path, ...]:
    """All of its files but the contract."""
    return tuple(getattr(image, role) for role in _ROLES)


def verify_contents(image: GuestImage, cache: Path) -> None:
    """Compare the files' SHA-256 with the contract, once per file: `cache` remembers by inode, size and date.

    Raises GuestImageDamaged, OSError.
    """
    contract = json.loads(_read_contract(image.directory))
    try:
        before: dict[str, str] = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    known = dict(before)
    for role, path in zip(_ROLES, image_files(image), strict=True):
        facts = path.stat()
        # Not by path: the same file has several, see `kept`.
        identity = f"{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}"
        if identity not in known:
            with path.open("rb") as stream:
                known[identity] = hashlib.file_digest(stream, "sha256").hexdigest()
        if known[identity] != contract["files"][role]["sha256"]:
            raise _damaged(path, "its SHA-256 is not the contract's")
    if known != before:
        write_atomically(cache, json.dumps(dict(list(known.items())[-_REMEMBERED_FILES:])))


def _places(arch: str) -> Iterator[Path]:
    yield Path(sys.prefix) / "wherry-guest" / arch
    yield Path(__file__).parents[2] / "build" / "guest" / arch


def _read_contract(directory: Path) -> bytes:
    path = directory / CONTRACT
    try:
        text = path.read_bytes()
        schema = json.loads(text)["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if schema != SCHEMA:
        raise _damaged(path, f"it has schema {schema}, and this version of Wherry knows {SCHEMA}")
    return text


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _damaged(path: Path, reason: str) -> GuestImageDamaged:
    return GuestImageDamaged(f"The guest image's file {path} cannot be used: {reason}; run `make guest` again.")

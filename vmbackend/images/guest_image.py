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

from vmbackend.errors import GuestImageDamaged, GuestImageMissing
from vmbackend.machine.store import write_atomically

SCHEMA = 1
_CONTRACT = "contract.json"
_ROLES = ("kernel", "initramfs", "system")


@dataclass(frozen=True)
class GuestImage:
    """A contract, with its files' paths.

    `digest` stands for all of the files' contents. `emulated_cmdline` is added to `cmdline` for an emulated x86 guest,
    with `{tsc_khz}` filled in. `fw_cfg` maps what the host hands in to firmware configuration names.
    `ports_channel` is the name of the virtio port on which the guest's engine asks for ports.
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


def find_guest_image(arch: str, directory: str | None = None) -> GuestImage:
    """The image for `arch`; a `directory` is the only place looked at.

    Sizes are compared each time, contents by `verify_contents`. Raises GuestImageMissing, GuestImageDamaged.
    """
    if directory is not None:
        if not (Path(directory) / _CONTRACT).is_file():
            raise GuestImageMissing(
                f"The setting `image_dir` names {directory}, but no {_CONTRACT} is there; "
                "correct the setting or remove it."
            )
        return _load(Path(directory), arch)
    for place in _places(arch):
        if (place / _CONTRACT).is_file():
            return _load(place, arch)
    raise GuestImageMissing(
        f"The guest image for {arch} is missing: run `make guest`, or set `image_dir` to a folder with one."
    )


def verify_contents(image: GuestImage, cache: Path) -> None:
    """Compare the files' SHA-256 with the contract, once per file: `cache` remembers by path, size and date.

    Raises GuestImageDamaged, OSError.
    """
    contract = _read_contract(image.directory)
    try:
        known: dict[str, str] = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    fresh = {}
    for role in _ROLES:
        path: Path = getattr(image, role)
        facts = path.stat()
        identity = f"{path}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}"
        if identity not in known:
            with path.open("rb") as stream:
                known[identity] = hashlib.file_digest(stream, "sha256").hexdigest()
        if known[identity] != contract["files"][role]["sha256"]:
            raise _damaged(path, "its SHA-256 is not the contract's")
        fresh[identity] = known[identity]
    if fresh != known or not cache.exists():
        write_atomically(cache, json.dumps(fresh))


def _places(arch: str) -> Iterator[Path]:
    yield Path(sys.prefix) / "wherry-guest" / arch
    yield Path(__file__).parents[2] / "build" / "guest" / arch


def _read_contract(directory: Path) -> dict[str, Any]:
    path = directory / _CONTRACT
    try:
        contract: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = contract["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if schema != SCHEMA:
        raise _damaged(path, f"it has schema {schema}, and this version of Wherry knows {SCHEMA}")
    return contract


def _load(directory: Path, arch: str) -> GuestImage:
    contract = _read_contract(directory)
    path = directory / _CONTRACT
    try:
        if contract["arch"] != arch:
            raise _damaged(path, f"it is for {contract['arch']}, and this computer needs {arch}")
        files = {role: directory / contract["files"][role]["name"] for role in _ROLES}
        for role, file in files.items():
            size = file.stat().st_size if file.is_file() else None
            if size != contract["files"][role]["size_bytes"]:
                raise _damaged(file, "it is missing" if size is None else f"it has {size} bytes")
        return GuestImage(
            directory=directory,
            version=contract["version"],
            digest=_joint_digest(contract),
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
            **files,
        )
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"it lacks {error}") from error


def _joint_digest(contract: dict[str, Any]) -> str:
    digests = " ".join(contract["files"][role]["sha256"] for role in _ROLES)
    return hashlib.sha256(digests.encode()).hexdigest()


def _damaged(path: Path, reason: str) -> GuestImageDamaged:
    return GuestImageDamaged(f"The guest image's file {path} cannot be used: {reason}; run `make guest` again.")

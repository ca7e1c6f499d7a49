"""The kernel and the modules a guest needs, with everything those depend on.

Modules are unpacked at build time: the guest maps them straight from the system image instead of running gzip on
each. Sources: kmod's modules.dep(5); names compare with ``-`` and ``_`` alike.
"""

from __future__ import annotations

import gzip
import re
import shutil
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from guest.builder.errors import BuildError

_SIGNATURE_MARK = b"~Module signature appended~\n"
_SIGNATURE_FACTS_BYTES = 12
_MODULE_SUFFIX = re.compile(r"\.ko(\.gz)?$")


def module_name(path: str) -> str:
    """``kernel/net/netfilter/nf-tables.ko.gz`` -> ``nf_tables``."""
    return _MODULE_SUFFIX.sub("", PurePosixPath(path).name).replace("-", "_")


class ModuleTree:
    """The modules below one ``/lib/modules/<release>`` folder and their dependencies."""

    def __init__(self, dependencies: Mapping[str, tuple[str, ...]], builtin: Iterable[str]) -> None:
        """``dependencies`` is modules.dep: path -> paths it needs; ``builtin`` is modules.builtin's paths."""
        self._needs = dict(dependencies)
        self._path_of = {module_name(path): path for path in dependencies}
        self._builtin = {module_name(path) for path in builtin}

    @classmethod
    def read(cls, folder: Path) -> ModuleTree:
        """Parse modules.dep and modules.builtin of a module folder."""
        return cls(
            parse_dependencies((folder / "modules.dep").read_text()),
            (folder / "modules.builtin").read_text().split(),
        )

    def resolve(self, names: Iterable[str]) -> list[str]:
        """Paths of the named modules and all they need, each after what it needs; built-in ones are left out.

        Raises BuildError naming the first module the kernel does not have.
        """
        ordered: dict[str, None] = {}
        for name in names:
            plain = name.replace("-", "_")
            if plain in self._path_of:
                # modules.dep lists the needs of a module transitively, the most basic last.
                path = self._path_of[plain]
                for needed in (*reversed(self._needs[path]), path):
                    ordered.setdefault(needed)
            elif plain not in self._builtin:
                raise BuildError(f"the kernel has no module {name}; correct image/modules.json")
        return list(ordered)


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.dep: ``path: needed needed ...`` a line."""
    dependencies = {}
    for line in text.splitlines():
        path, _, needed = line.partition(":")
        dependencies[path] = tuple(needed.split())
    return dependencies


def release_of(root: Path) -> str:
    """The kernel release in an extracted root, the name of its only module folder."""
    releases = [path.name for path in (root / "lib/modules").iterdir()]
    if len(releases) != 1:
        raise BuildError(f"the Alpine root holds modules of {len(releases)} kernels; expected one")
    return releases[0]


def read_module(path: Path) -> bytes:
    """One module's content, unpacked and without its signature.

    The guest's kernel takes unsigned modules (and marks itself tainted), and hashing every module before use costs
    more under emulation than loading it. What vouches for them is the digest of the image they are in.
    """
    content = path.read_bytes()
    return _without_signature(gzip.decompress(content) if path.suffix == ".gz" else content)


def _without_signature(module: bytes) -> bytes:
    """As scripts/sign-file.c appends it: the signature, struct module_signature that ends in its size, a mark."""
    if not module.endswith(_SIGNATURE_MARK):
        return module
    facts_end = len(module) - len(_SIGNATURE_MARK)
    (signature_bytes,) = struct.unpack_from(">I", module, facts_end - 4)
    return module[: facts_end - _SIGNATURE_FACTS_BYTES - signature_bytes]


def install_modules(source: Path, names: Iterable[str], destination: Path) -> None:
    """Fill ``destination`` (a new ``/lib/modules/<release>``) with modules and the indexes BusyBox modprobe reads."""
    paths = ModuleTree.read(source).resolve(names)
    for path in paths:
        target = destination / path.removesuffix(".gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_module(source / path))
    needs = parse_dependencies((source / "modules.dep").read_text())
    lines = (f"{path}: {' '.join(needs[path])}".rstrip().replace(".ko.gz", ".ko") for path in paths)
    (destination / "modules.dep").write_text("".join(f"{line}\n" for line in lines))
    chosen = {module_name(path) for path in paths}
    for index in ("modules.alias", "modules.symbols", "modules.softdep"):
        kept = [line for line in (source / index).read_text().splitlines(keepends=True) if _about(line) in chosen]
        (destination / index).write_text("".join(kept))
    for index in ("modules.builtin", "modules.order"):
        shutil.copyfile(source / index, destination / index)


def _about(index_line: str) -> str:
    """The module a line is about: the last word of ``alias`` and ``symbols`` lines, the second of ``softdep``."""
    words = index_line.split()
    if len(words) < 2:
        return ""
    return words[1 if words[0] == "softdep" else -1].replace("-", "_")


def bootable_kernel(kernel: bytes) -> bytes:
    """The kernel as QEMU starts it with the least work for the guest: unpacked.

    x86: the ELF file inside a bzImage, which QEMU enters through its PVH note. Unpacking 39 MB under emulation
    costs half a second; the price is KASLR, which the unpacking stub does. aarch64: the Image inside an EFI zboot
    file, which QEMU before version 8 cannot start. Raises BuildError for any other format.
    """
    if kernel[0x202:0x206] == b"HdrS":
        offset, length = _bzimage_payload(kernel)
    elif kernel[:8] == b"MZ\0\0zimg" and kernel[24:28] == b"gzip":
        offset, length = struct.unpack_from("<II", kernel, 8)  # struct linux_efi_zboot_header
    else:
        raise BuildError("the kernel is neither an x86 bzImage nor an arm64 zboot image packed with gzip")
    unpacked = zlib.decompressobj(wbits=31).decompress(kernel[offset : offset + length])
    if not unpacked.startswith(b"\x7fELF") and unpacked[0x38:0x3C] != b"ARM\x64":
        raise BuildError("the kernel's payload is neither an ELF file nor an arm64 Image; QEMU could not start it")
    return unpacked


def _bzimage_payload(kernel: bytes) -> tuple[int, int]:
    """Offset and length of the packed kernel: setup_sects, payload_offset and payload_length in arch/x86/boot.rst."""
    setup_sectors = kernel[0x1F1] or 4
    offset, length = struct.unpack_from("<II", kernel, 0x248)
    return (setup_sectors + 1) * 512 + offset, length

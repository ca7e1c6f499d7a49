"""The initramfs: BusyBox, its C library, the few modules that reach the system image, and one script.

It is left uncompressed: QEMU hands it over by memory copy, and unpacking gzip under emulation costs more than it
saves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from guest.builder import cpio
from guest.builder.kernel import install_modules

APPLETS = ("mkdir", "modprobe", "mount", "sh", "sleep", "switch_root")
FOLDERS = ("bin", "dev", "lib", "lib/modules", "lower", "overlay", "proc", "root", "sys")


def write_initramfs(userland: Path, modules: Path, module_names: Collection[str], script: Path, output: Path) -> None:
    """Write the archive to ``output``.

    ``userland`` is an Alpine root with BusyBox, ``modules`` the kernel's ``/lib/modules/<release>`` folder,
    ``script`` becomes /init. The module names are written to /modules, which the script loads.
    """
    entries = [cpio.folder(name) for name in FOLDERS]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.file("bin/busybox", (userland / "bin/busybox").read_bytes()))
    entries += [cpio.symlink(f"bin/{name}", "busybox") for name in APPLETS]
    (c_library,) = (userland / "lib").glob("ld-musl-*.so.1")
    entries.append(cpio.file(f"lib/{c_library.name}", c_library.read_bytes()))
    architecture = c_library.name.removeprefix("ld-musl-").removesuffix(".so.1")
    entries.append(cpio.symlink(f"lib/libc.musl-{architecture}.so.1", c_library.name))
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / modules.name
        install_modules(modules, module_names, chosen)
        entries.append(cpio.folder(f"lib/modules/{modules.name}"))
        entries += [
            _entry(path, f"lib/modules/{path.relative_to(scratch).as_posix()}") for path in sorted(chosen.rglob("*"))
        ]
    entries.append(cpio.file("modules", (" ".join(module_names) + "\n").encode(), 0o644))
    entries.append(cpio.file("init", script.read_bytes()))
    output.write_bytes(cpio.write(entries))


def _entry(path: Path, name: str) -> cpio.CpioEntry:
    return cpio.folder(name) if path.is_dir() else cpio.file(name, path.read_bytes(), 0o644)

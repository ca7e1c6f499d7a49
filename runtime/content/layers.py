"""Unpacked layers, one directory each, shared by all images and containers built on them.

    <layers>/<chain hex>/diff/        the files, overlay conventions (see archive)
    <layers>/<chain hex>/layer.json   {"diff_id": ..., "size_bytes": ...}

A layer directory is filled under a temporary name and appears whole.
"""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.content.archive import Unpacked, unpack_layer
from runtime.content.compression import Readable, buffered_reader, decompressed
from runtime.content.merged import stat_directory
from runtime.content.trash import Trash
from runtime.content.tree import RootedDirectories, open_directory
from runtime.errors import InvalidParameter
from runtime.linux.files import sync_filesystem
from runtime.oci import digest

_UNFINISHED_PREFIX = "tmp-"
_CHUNK_BYTES = 1 << 20
PADDING_BYTES_MAX = 64 << 20  # after the end of a tar; compressed it costs its author nothing


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
        self._adopting = threading.Lock()
        self._unsealed: dict[str, str] = {}  # chain ID → diff ID of layers that do not survive this process yet
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
        self.adopt([(chain_ids, self.unpack(diff_id, source))])

    def unpack(self, diff_id: str | None, source: Readable, digest_of_source: str = "") -> "UnpackedLayer":
        """The first half of `add`, which does not need the layers below: any number may run at the same time.

        `diff_id`: None for a layer that nobody has asked for yet. `digest_of_source`: where it has been hashed just
        now, so that what is not compressed is not hashed twice. The result is for `adopt` or `discard`.
        """
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=self._directory))
        try:
            unpacked, diff_id = self._unpack(unfinished / "diff", diff_id, source, digest_of_source)
            facts = {"diff_id": diff_id, "size_bytes": unpacked.size_bytes}
            (unfinished / "layer.json").write_text(json.dumps(facts))
        except BaseException:
            self._trash.discard(unfinished)
            raise
        return UnpackedLayer(unfinished, diff_id, unpacked.size_bytes, unpacked.implied)

    def adopt(self, layers: Sequence[tuple[Sequence[str], "UnpackedLayer"]]) -> None:
        """Gives unpacked layers their names: each with its chain IDs, bottom first, those below earlier or known.

        What was not adopted before a failure stays to be discarded.
        """
        with self._adopting:
            layers = [(chain_ids, layer) for chain_ids, layer in layers if chain_ids[-1] not in self._sizes]
            for number, (chain_ids, layer) in enumerate(layers):
                unnamed = {chain_id: lower.path for (*_, chain_id), lower in layers[:number]}
                self._describe_implied(layer, chain_ids[:-1], unnamed)
            if layers:
                sync_filesystem(str(self._directory))  # a layer that has its name is whole, also after a power cut
            for chain_ids, layer in layers:
                os.rename(layer.path, self._directory / digest.hex_of(chain_ids[-1]))
                self._sizes[chain_ids[-1]] = layer.size_bytes

    def path(self, chain_id: str) -> Path:
        return layer_path(self._directory, chain_id)

    def damage_of_record(self, chain_id: str, diff_id: str) -> str:
        """What is wrong with what is noted beside the layer, "" when nothing is."""
        if chain_id in self._unsealed:
            return ""
        try:
            facts = json.loads((self._directory / digest.hex_of(chain_id) / "layer.json").read_bytes())
            return "" if facts["diff_id"] == diff_id else f"its record says {facts['diff_id']}, the image {diff_id}"
        except (OSError, ValueError, KeyError, TypeError):
            return "its record is missing or damaged"

    def describe(self, layer: "UnpackedLayer", below: Sequence[str]) -> None:
        """Makes an unpacked layer what it is on top of `below`; as `adopt` does."""
        self._describe_implied(layer, below, {})

    def replace(self, chain_id: str, layer: "UnpackedLayer") -> None:
        """Puts a described layer in the place of the one that has the name. Between two renames there is none."""
        with self._adopting:
            sync_filesystem(str(self._directory))
            place = self._directory / digest.hex_of(chain_id)
            if place.exists():
                self._trash.discard(place)
            os.rename(layer.path, place)
            self._sizes[chain_id] = layer.size_bytes
            self._unsealed.pop(chain_id, None)

    def discard(self, layer: "UnpackedLayer") -> None:
        """Away with what was unpacked, unless it was adopted."""
        try:
            self._trash.discard(layer.path)
        except FileNotFoundError:
            pass

    def take(self, chain_id: str, diff_id: str, tree: Path, size_bytes: int) -> None:
        """Moves the finished directory `tree` here as a layer's files; it is on the same file system.

        The layer can be used at once. The next engine finds it only after `seal`, which syncs many at the price of one.
        """
        if chain_id in self._sizes:
            return
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=self._directory))
        try:
            os.rename(tree, unfinished / "diff")
            with self._adopting:
                if chain_id not in self._sizes:
                    os.rename(unfinished, self._directory / digest.hex_of(chain_id))
                    self._sizes[chain_id], self._unsealed[chain_id] = size_bytes, diff_id
                    return
        except BaseException:
            self._trash.discard(unfinished)
            raise
        self._trash.discard(unfinished)  # another thread has taken the same layer meanwhile

    def seal(self, chain_ids: Iterable[str]) -> None:
        """Makes layers that were taken survive this process and a power cut."""
        unsealed = {chain_id: self._unsealed[chain_id] for chain_id in chain_ids if chain_id in self._unsealed}
        if not unsealed:
            return
        sync_filesystem(str(self._directory))
        for chain_id, diff_id in unsealed.items():
            facts = {"diff_id": diff_id, "size_bytes": self._sizes[chain_id]}
            (self._directory / digest.hex_of(chain_id) / "layer.json").write_text(json.dumps(facts))
            self._unsealed.pop(chain_id, None)

    def remove(self, chain_id: str) -> None:
        try:
            self._trash.discard(self._directory / digest.hex_of(chain_id))
        except FileNotFoundError:
            pass  # somebody else took it away
        del self._sizes[chain_id]
        self._unsealed.pop(chain_id, None)

    def _unpack(self, diff: Path, diff_id: str | None, source: Readable, digest_of_source: str) -> tuple[Unpacked, str]:
        """Also returns the diff ID."""
        diff.mkdir()
        diff.chmod(0o755)
        plain, compression = decompressed(source)
        hashing = None if digest_of_source and compression is None else _Hashing(plain)
        tar = buffered_reader(hashing) if hashing else plain
        unpacked = unpack_layer(tar, diff)
        read_padding(tar, "layer")  # it counts in the digest
        found = hashing.digest() if hashing else digest_of_source
        if diff_id not in (None, found):
            raise InvalidParameter(
                f"the layer's content has the digest {found}, the image says {diff_id}: "
                "the archive is damaged, fetch it again"
            )
        return unpacked, found

    def _describe_implied(self, layer: "UnpackedLayer", below: Sequence[str], unnamed: Mapping[str, Path]) -> None:
        """Gives directories the tar only implied the owner and mode they have in the layers below.

        Overlayfs shows a directory as its topmost layer has it; without this a layer holding only
        `tmp/file` would make /tmp root's own. `unnamed`: layers below that have no name yet, by chain ID.
        """
        if not below or not layer.implied:
            return
        lower = [
            str(unnamed[chain_id] / "diff" if chain_id in unnamed else layer_path(self._directory, chain_id))
            for chain_id in reversed(below)
        ]
        top_fd = open_directory(layer.path / "diff")
        directories = RootedDirectories(top_fd)
        try:
            for path in layer.implied:
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


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer without its name yet. `implied`: see `runtime.content.archive.Unpacked`."""

    path: Path
    diff_id: str
    size_bytes: int
    implied: tuple[str, ...]


def read_padding(source: Readable, what: str) -> None:
    """Reads what follows the end of a tar. Raises InvalidParameter when it is more than any tar is padded with."""
    size = 0
    while data := source.read(_CHUNK_BYTES):
        size += len(data)
        if size > PADDING_BYTES_MAX:
            raise InvalidParameter(f"the {what} goes on for more than {PADDING_BYTES_MAX >> 20} MiB after its end")


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

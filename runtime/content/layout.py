"""An OCI image layout on disk: content-addressed blobs and the index of what is wanted of them.

Source: OCI image-spec, image-layout.md. Blobs keep the bytes (and so the digest) they arrived with.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from runtime.content.archive import Writable
from runtime.content.compression import Readable
from runtime.content.documents import DOCUMENT_BYTES_MAX, encode, parse_index
from runtime.content.tree import remove_children
from runtime.errors import Conflict, InvalidParameter, NotFound
from runtime.oci import digest
from runtime.oci.image import Index

_CHUNK_BYTES = 1 << 20
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'


class Layout:
    """One layout directory, held by one process at a time. Reading and adding blobs is thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Opens or creates the layout. Raises Conflict when another process has it."""
        self._directory = directory
        self._blobs = directory / "blobs" / digest.ALGORITHM
        self._ingest = directory / "ingest"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = _lock(directory)
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._ingest.mkdir(exist_ok=True)
            remove_children(self._ingest)  # blobs whose writer was killed
            if not (directory / "oci-layout").exists():
                write_durably(directory / "oci-layout", LAYOUT_FILE)
        except BaseException:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        os.close(self._lock_fd)

    def path(self, blob: str) -> Path:
        return self._blobs / digest.hex_of(blob)

    def digests(self) -> list[str]:
        return [f"{digest.ALGORITHM}:{name}" for name in os.listdir(self._blobs)]

    def __contains__(self, blob: str) -> bool:
        return self.path(blob).exists()

    def read(self, blob: str) -> bytes:
        """A whole blob that is a JSON document. Raises NotFound, InvalidParameter when it is far too large."""
        with self.open(blob) as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise InvalidParameter(f"the document {blob} is larger than {DOCUMENT_BYTES_MAX >> 20} MiB")
        return data

    def open(self, blob: str) -> IO[bytes]:
        """A blob for reading. Raises NotFound."""
        try:
            return self.path(blob).open("rb")
        except FileNotFoundError:
            raise NotFound(f"the blob {blob} is missing") from None

    def check_size(self, blob: str, size_bytes: int) -> None:
        """Raises InvalidParameter when it is not what a descriptor says, NotFound."""
        try:
            found = self.path(blob).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"the blob {blob} is missing") from None
        if found != size_bytes:
            raise InvalidParameter(f"the blob {blob} has {found} bytes, its descriptor says {size_bytes}")

    def add(
        self,
        source: Readable,
        expected: str | None = None,
        before_visible: Callable[[str], None] = lambda blob: None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> tuple[str, int]:
        """Stores `source` to its end, telling `on_bytes` the bytes so far; the rest as `create`."""

        def copy(out: Writable) -> None:
            size = 0
            while chunk := source.read(_CHUNK_BYTES):
                out.write(chunk)
                size += len(chunk)
                on_bytes(size)

        return self.create(copy, expected, before_visible)

    def create(
        self,
        fill: Callable[[Writable], None],
        expected: str | None = None,
        before_visible: Callable[[str], None] = lambda blob: None,
    ) -> tuple[str, int]:
        """Stores what `fill` writes; returns digest and size in bytes.

        `before_visible` learns the digest just before the blob has its name. Not durable until `sync`.
        Raises InvalidParameter when the digest is not the `expected` one; then nothing is stored.
        """
        descriptor, name = tempfile.mkstemp(dir=self._ingest)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
                out = _HashingWriter(file)
                fill(out)
            found = out.digest()
            if expected not in (None, found):
                raise InvalidParameter(
                    f"the content has the digest {found} instead of {expected}: it is damaged, fetch it again"
                )
            before_visible(found)
            os.rename(name, self.path(found))
        except BaseException:
            os.unlink(name)
            raise
        return found, out.size_bytes

    def sync(self, blobs: Iterable[str]) -> None:
        """Makes blobs survive a power cut; to be called before an index names them."""
        for blob in blobs:
            _fsync(self.path(blob), os.O_RDONLY)
        _fsync(self._blobs, os.O_RDONLY | os.O_DIRECTORY)

    def remove(self, blob: str) -> None:
        self.path(blob).unlink(missing_ok=True)

    def read_index(self) -> Index:
        try:
            return parse_index((self._directory / "index.json").read_bytes())
        except FileNotFoundError:
            return Index(schemaVersion=2, manifests=[])

    def write_index(self, index: Index) -> None:
        write_durably(self._directory / "index.json", encode(index))


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file so that after a power cut it is the old or the new one, whole."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(unfinished, path)
    _fsync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


class _HashingWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes, /) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size_bytes += len(data)

    def digest(self) -> str:
        return f"{digest.ALGORITHM}:{self._hash.hexdigest()}"


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"another engine is using the images in {directory}: stop it, or give this one another --data-root"
        ) from None
    return descriptor

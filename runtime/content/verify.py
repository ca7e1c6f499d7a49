"""Whether what is on disk is still what images are made of: blobs hashed again, layers compared with their blobs.

A layer is compared with its blob unpacked once more beside it; that copy takes the layer's place if it is to be
repaired.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from runtime.content.archive import write_diff
from runtime.content.contents import Contents
from runtime.content.layers import UnpackedLayer
from runtime.content.tree import OPAQUE_XATTR, Node, walk
from runtime.content.tree_writer import may_carry, printable
from runtime.errors import InvalidParameter, NotFound
from runtime.oci import digest

_CHUNK_BYTES = 1 << 20
OnBytes = Callable[[int], None]


class Verifier:
    """Looks at single blobs and layers; whoever asks sees to it that they are held meanwhile."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def damage_of_blob(self, blob: str, size_bytes: int, on_bytes: OnBytes = lambda done: None) -> str:
        """What is wrong with it, "" when nothing is. `size_bytes` 0: not known."""
        hashed, done = hashlib.sha256(), 0
        try:
            with self._contents.layout.open(blob) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    hashed.update(chunk)
                    done += len(chunk)
                    on_bytes(done)
        except NotFound:
            return "it is missing"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if size_bytes and done != size_bytes:
            return f"it has {done} bytes instead of {size_bytes}"
        found = f"{digest.ALGORITHM}:{hashed.hexdigest()}"
        return "" if found == blob else f"its digest is {found}"

    def make_blob_again(self, blob: str, chain_id: str) -> bool:
        """From its unpacked layer, which gives the same bytes where this engine made the layer."""
        if chain_id not in self._contents.layers:
            return False
        try:
            self._contents.layout.create(lambda out: write_diff(self._contents.layers.path(chain_id), out), blob)
        except (InvalidParameter, OSError):
            return False
        self._contents.layout.sync((blob,))
        return True

    def damage_of_layer(self, chain_ids: Sequence[str], diff_id: str, blob: str) -> tuple[str, UnpackedLayer | None]:
        """What is wrong with the last of `chain_ids`, whose blob is sound, and what it should be.

        The second is for `replace` or `discard`; None where nothing is wrong.
        """
        layers = self._contents.layers
        problem = layers.damage_of_record(chain_ids[-1], diff_id)
        with self._contents.layout.open(blob) as source:
            fresh = layers.unpack(diff_id, source)
        try:
            layers.describe(fresh, chain_ids[:-1])
            path = layers.path(chain_ids[-1])
            if not problem:
                problem = _difference(path, fresh.path / "diff") if path.is_dir() else "its files are missing"
        except BaseException:
            layers.discard(fresh)
            raise
        if not problem:
            layers.discard(fresh)
        return problem, fresh if problem else None

    def replace(self, chain_id: str, fresh: UnpackedLayer) -> None:
        """Puts the layer that should be there in the place of the one that is. No overlay may be mounted on it."""
        self._contents.layers.replace(chain_id, fresh)

    def discard(self, fresh: UnpackedLayer) -> None:
        self._contents.layers.discard(fresh)


def _difference(found: Path, wanted: Path) -> str:
    """The first file that is not what it should be. Times are not compared: tars of our own have whole seconds."""
    have = _facts(found)
    for path, facts in _facts(wanted):
        other_path, other = next(have, ("", None))
        while other is not None and other_path != path and _may_be_left_over(other):
            other_path, other = next(have, ("", None))
        if other_path != path:
            return f'"{printable(path)}" is missing, or a file beside it does not belong there'
        if other != facts:
            return f'"{printable(path)}" is not what the image says'
    for path, facts in have:
        if not _may_be_left_over(facts):
            return f'"{printable(path)}" does not belong there'
    return ""


_Facts = tuple[int, int, int, int, int, bytes, tuple[tuple[str, bytes], ...]]


def _may_be_left_over(facts: _Facts) -> bool:
    """Mount points that a build's RUN needed are in the layer's directory, but not in its tar; sockets neither."""
    mode, _, _, size_bytes, *_ = facts
    return stat.S_ISSOCK(mode) or (stat.S_ISREG(mode) and size_bytes == 0)


def _facts(top: Path) -> Iterator[tuple[str, _Facts]]:
    for node in walk(top):
        info = node.info
        is_file = stat.S_ISREG(info.st_mode)
        yield (
            node.path,
            (
                info.st_mode,
                info.st_uid,
                info.st_gid,
                info.st_size if is_file else 0,
                info.st_rdev,
                _content(node),
                _attributes(node) if is_file or stat.S_ISDIR(info.st_mode) else (),
            ),
        )


def _content(node: Node) -> bytes:
    if stat.S_ISLNK(node.info.st_mode):
        return os.fsencode(os.readlink(node.name, dir_fd=node.parent_fd))
    if not stat.S_ISREG(node.info.st_mode):
        return b""
    hashed = hashlib.sha256()
    file_fd = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=node.parent_fd)
    try:
        while chunk := os.read(file_fd, _CHUNK_BYTES):
            hashed.update(chunk)
    finally:
        os.close(file_fd)
    return hashed.digest()


def _attributes(node: Node) -> tuple[tuple[str, bytes], ...]:
    file_fd = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=node.parent_fd)
    try:
        names = sorted(name for name in os.listxattr(file_fd) if may_carry(name) or name == OPAQUE_XATTR)
        return tuple((name, os.getxattr(file_fd, name)) for name in names)
    finally:
        os.close(file_fd)

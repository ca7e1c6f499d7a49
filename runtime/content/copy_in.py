"""A tar from a client unpacked into a container's file system (`docker cp`), while the container may be running."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from runtime.content import tar_reader
from runtime.content.compression import Readable, decompressed
from runtime.content.tar_reader import TarEntry, TarReader
from runtime.content.tree_writer import TreeWriter, naming, stat_entry
from runtime.errors import InvalidParameter


def copy_in(
    root_fd: int,
    directory: str,
    source: Readable,
    keep_kinds: bool = False,
    owner: tuple[int, int] | None = None,
    shift: Callable[[int, int], tuple[int, int]] | None = None,
) -> None:
    """Unpacks `source`, compressed or not, into `directory`; symlinks resolve inside the root of `root_fd`.

    `keep_kinds` refuses to replace a directory by something else and the reverse; `owner` replaces all owners,
    and `shift` says which ids of the host these are.
    Raises InvalidParameter, SystemFault; what was unpacked before stays.
    """
    plain, _ = decompressed(source)
    with closing(_CopyWriter(root_fd, directory, keep_kinds)) as writer:
        reader = TarReader(plain)
        for entry in reader:
            if owner:
                entry = replace(entry, uid=owner[0], gid=owner[1])
            if shift:
                uid, gid = shift(entry.uid, entry.gid)
                entry = replace(entry, uid=uid, gid=gid)
            with naming(entry, writer.source):
                writer.add(entry, reader)
        writer.finish()


class _CopyWriter(TreeWriter):
    source = "archive"

    def __init__(self, root_fd: int, directory: str, keep_kinds: bool) -> None:
        super().__init__(root_fd)
        self._directory_path = directory.strip("/")
        self._keep_kinds = keep_kinds

    def _path(self, name: str) -> str:
        path = super()._path(name)
        return posixpath.join(self._directory_path, path) if path and self._directory_path else path

    def describe_top(self, entry: TarEntry) -> None:
        """The directory copied into stays as it is."""

    def make_room(self, parent: str, name: str, entry: TarEntry) -> int:
        if self._keep_kinds:
            info = stat_entry(name, self.directories.open(parent, make=True))
            path = posixpath.join("/", parent, name)
            if info and stat.S_ISDIR(info.st_mode) and entry.kind != tar_reader.DIRECTORY:
                raise InvalidParameter(f'cannot overwrite directory "{path}" with non-directory "{entry.name}"')
            if info and not stat.S_ISDIR(info.st_mode) and entry.kind == tar_reader.DIRECTORY:
                raise InvalidParameter(f'cannot overwrite non-directory "{path}" with directory "{entry.name}"')
        return super().make_room(parent, name, entry)

"""COPY and ADD: files put into a stage's root file system, by BuildKit's rules.

Paths of the root resolve inside of it. A directory's content goes into the destination; a file goes into it when it is
a directory or is written with a slash at the end, and becomes it otherwise. What is made belongs to root or --chown.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from runtime.container.rootpath import open_in
from runtime.content.copy_in import copy_in
from runtime.content.tree import RootedDirectories, open_directory, remove_tree
from runtime.content.tree_writer import stat_entry
from runtime.engine.build.files import Files, Item, Keep, SourceFile, contents_of
from runtime.engine.roots import resolved_path
from runtime.errors import InvalidParameter

ChangeMode = Callable[[int, bool], int]
"""The new permission bits of a file, given the old and whether it is a directory."""


@dataclass(frozen=True)
class Placement:
    """How files arrive. `destination` is absolute, with its slash at the end if there was one."""

    destination: str
    owner: tuple[int, int] = (0, 0)
    change_mode: ChangeMode | None = None
    latest_mtime_ns: int | None = None


def copy(root_fd: int, groups: Sequence[tuple[Files, Sequence[Item]]], placement: Placement, keep: Keep) -> None:
    """Copies items of several trees. Blocks. Raises InvalidParameter, OSError."""
    with closing(_Writer(root_fd, placement)) as writer:
        for files, item in ((files, item) for files, items in groups for item in items):
            destination = placement.destination
            for parent in item.parents:
                writer.put(posixpath.join(destination, parent), files.find(posixpath.join(item.base, parent))[1])
            if item.kept_parents is not None:  # the destination is a directory then
                destination = f"{posixpath.join(destination, item.kept_parents).rstrip('/')}/"
            if item.is_directory:
                writer.make_directory(destination)
                for path, file in contents_of(files, item, keep):
                    writer.put(posixpath.join(destination, path) if path else destination, file)
            else:
                file = files.find(item.path)[1]
                into = destination.endswith("/") or _is_directory(root_fd, destination)
                target = posixpath.join(destination, item.name) if into else _followed(root_fd, destination)
                writer.put(target, file)
        writer.finish()


def unpack(root_fd: int, archive: Callable[[int], bytes], placement: Placement, owner: tuple[int, int] | None) -> None:
    """ADD of an archive, read by `archive(size)`, into the destination; its owners stay unless there is one."""
    with closing(_Writer(root_fd, placement)) as writer:
        writer.make_directory(placement.destination)
        writer.finish()
    copy_in(root_fd, resolved_path(root_fd, placement.destination), _Reading(archive), owner=owner)


def make_working_directory(root_fd: int, path: str, owner: tuple[int, int], latest_mtime_ns: int | None) -> None:
    """WORKDIR: nothing if it is there. Raises InvalidParameter."""
    with closing(_Writer(root_fd, Placement(path, owner, latest_mtime_ns=latest_mtime_ns))) as writer:
        writer.make_directory(path)
        writer.finish()


class _Reading:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def read(self, size: int = -1, /) -> bytes:
        return self._read(size)


class _Writer:
    def __init__(self, root_fd: int, placement: Placement) -> None:
        self._root_fd = root_fd
        self._owner = placement.owner
        self._change_mode = placement.change_mode
        self._latest_mtime_ns = placement.latest_mtime_ns
        self._directories = RootedDirectories(root_fd)
        self._made: dict[str, int] = {}  # directories put here, and the time they shall have

    def close(self) -> None:
        self._directories.close()

    def make_directory(self, path: str) -> None:
        """With its parents; nothing if it is there. Raises InvalidParameter when something else is."""
        try:
            self._directories.open(path.strip("/"), make=True)
        except NotADirectoryError:
            raise InvalidParameter(f"cannot copy to non-directory: {path}") from None

    def put(self, path: str, file: SourceFile) -> None:
        parent, name = posixpath.split(posixpath.normpath(path).lstrip("/"))
        if not name:
            return  # the root directory stays as it is
        try:
            parent_fd = self._directories.open(parent, make=True)
        except NotADirectoryError:
            raise InvalidParameter(f"cannot copy to non-directory: /{parent}") from None
        if file.kind == "directory":
            self._put_directory(parent_fd, name, path, file)
            return
        self._make_room(parent_fd, name, path)
        if file.kind == "file":
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
            try:
                file.fill(fd)
                os.fchown(fd, *self._owner)
                os.fchmod(fd, self._mode(file))
                for xattr, value in file.xattrs.items():
                    os.setxattr(fd, xattr, value)
                mtime_ns = self._time(file.mtime_ns)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
            return
        if file.kind == "symlink":
            os.symlink(file.target, name, dir_fd=parent_fd)
        else:
            os.mknod(name, file.mode, file.device, dir_fd=parent_fd)
        os.chown(name, *self._owner, dir_fd=parent_fd, follow_symlinks=False)
        mtime_ns = self._time(file.mtime_ns)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _put_directory(self, parent_fd: int, name: str, path: str, file: SourceFile) -> None:
        whole = posixpath.normpath(path).lstrip("/")
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            try:
                directory_fd = self._directories.open(whole, make=True)
            except (NotADirectoryError, FileNotFoundError):
                raise InvalidParameter(f"cannot copy to non-directory: {path}") from None
            if self._directories.made.pop(os.fstat(directory_fd).st_ino, None) is None:
                return  # it was there before: it stays as it is, and what is in it
            self._describe(directory_fd, whole, file)
            return
        directory_fd = open_directory(name, parent_fd)
        try:
            self._describe(directory_fd, whole, file)
        finally:
            os.close(directory_fd)

    def _describe(self, directory_fd: int, path: str, file: SourceFile) -> None:
        os.fchown(directory_fd, *self._owner)
        os.fchmod(directory_fd, self._mode(file))
        for xattr, value in file.xattrs.items():
            os.setxattr(directory_fd, xattr, value)
        self._made[path] = file.mtime_ns

    def _make_room(self, parent_fd: int, name: str, path: str) -> None:
        info = stat_entry(name, parent_fd)
        if info is None:
            return
        if stat.S_ISDIR(info.st_mode):
            raise InvalidParameter(f"cannot copy a file over the directory {path}")
        remove_tree(name, parent_fd)

    def finish(self) -> None:
        """What was made on the way gets its owner; directories get their times, which filling them has changed."""
        for path in self._directories.made.values():
            directory_fd = self._directories.open(path, make=False)
            os.fchown(directory_fd, *self._owner)
            if self._latest_mtime_ns is not None:
                os.utime(directory_fd, ns=(self._latest_mtime_ns, self._latest_mtime_ns))
        for path, mtime_ns in reversed(self._made.items()):
            moment = self._time(mtime_ns)
            os.utime(self._directories.open(path, make=False), ns=(moment, moment))

    def _mode(self, file: SourceFile) -> int:
        if self._change_mode is None:
            return file.mode
        return self._change_mode(file.mode, file.kind == "directory")

    def _time(self, mtime_ns: int) -> int:
        return mtime_ns if self._latest_mtime_ns is None else min(mtime_ns, self._latest_mtime_ns)


def _is_directory(root_fd: int, path: str) -> bool:
    try:
        fd = open_in(root_fd, path, os.O_PATH)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _followed(root_fd: int, path: str) -> str:
    """Where a destination that is a symlink leads."""
    try:
        return resolved_path(root_fd, path)
    except OSError:
        return path

"""The files of one share, reached by node numbers.

Every step from the share's root to a file is opened by itself and follows no link, so a share is never left.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from vmbackend.host import files
from vmbackend.share.errnos import EINVAL, ENOENT, ESTALE, Refused
from vmbackend.share.nodes import Identity, Node, NodeTable
from vmbackend.share.owners import Owner, Owners
from vmbackend.share.wire import ROOT_ID, Attributes

_OPEN_DIRECTORIES = 256


class Place(NamedTuple):
    """A name in an open directory, and what is there."""

    directory: files.Directory
    name: str
    facts: os.stat_result


class Tree:
    """Methods raise Refused and OSError."""

    def __init__(self, root: Path, journal: Path | None = None) -> None:
        self.root = root
        self.nodes = NodeTable(journal)
        self.owners = Owners()
        self._directories: OrderedDict[int, files.Directory] = OrderedDict()
        self._device = 0

    def close(self) -> None:
        self.forget_directories()
        self.nodes.close()

    def forget_directories(self) -> None:
        """Close what is held open; it is opened again when needed."""
        while self._directories:
            files.close_directory(self._directories.popitem()[1])

    def look_at_root(self) -> str | None:
        """Why the share's directory cannot be used, or None; one that was replaced is taken from then on."""
        try:
            now = identity_of(self.root.stat())
            if not stat.S_ISDIR(now[2]):
                return "is not a directory any more"
            held = self._directories.get(ROOT_ID)
            if held is not None and identity_of(files.directory_stat(held)) != now:
                self.forget_directories()
        except OSError as error:
            self.forget_directories()
            return f"is not there ({error.strerror})"
        return None

    # --- places

    def directory(self, number: int) -> files.Directory:
        """The open directory of a node; it stays ours."""
        held = self._directories.get(number)
        if held is not None:
            self._directories.move_to_end(number)
            return held
        if number == ROOT_ID:
            opened = files.open_root(self.root)
            self._device = files.directory_stat(opened).st_dev
        else:
            node = self.node(number)
            opened = self._open_directory(node)
        self._directories[number] = opened
        if len(self._directories) > _OPEN_DIRECTORIES:
            oldest = next(one for one in self._directories if one not in (ROOT_ID, number))
            files.close_directory(self._directories.pop(oldest))
        return opened

    def close_directory(self, number: int) -> None:
        held = self._directories.pop(number, None)
        if held is not None:
            files.close_directory(held)

    def _open_directory(self, node: Node) -> files.Directory:
        for parent, name in list(node.names):
            try:
                opened = files.open_directory(self.directory(parent), files.native_name(name))
            except FileNotFoundError:
                continue
            identity = identity_of(files.directory_stat(opened))
            if node.identity in (None, identity):
                node.identity = identity
                return opened
            files.close_directory(opened)
        raise Refused(ESTALE)

    def node(self, number: int) -> Node:
        node = self.nodes.get(number)
        if node is None:
            raise Refused(ESTALE)
        return node

    def place(self, node: Node) -> Place:
        """Where the node's file is now, by whichever of its names still leads to it."""
        if node.number == ROOT_ID:
            directory = self.directory(ROOT_ID)
            return Place(directory, ".", files.directory_stat(directory))
        for parent, name in list(node.names):
            native = files.native_name(name)
            try:
                directory = self.directory(parent)
                facts = stat_at(directory, native)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except Refused:
                continue
            identity = identity_of(facts)
            if node.identity in (None, identity):
                node.identity = identity
                return Place(directory, native, facts)
        raise Refused(ESTALE)

    # --- what a file is

    def find(self, parent: int, name: bytes) -> tuple[Node, Attributes]:
        """The file of that name, now. Raises FileNotFoundError."""
        directory, native = self.directory(parent), files.native_name(checked(name))
        return self.meet(parent, name, Place(directory, native, stat_at(directory, native)))

    def meet(self, parent: int, name: bytes, place: Place) -> tuple[Node, Attributes]:
        node = self.nodes.meet(parent, name, identity_of(place.facts))
        return node, self.attributes(place)

    def attributes(self, place: Place) -> Attributes:
        owner = self.owners.of(place.directory, place.name, place.facts, identity_of(place.facts))
        return self._attributes(place.facts, owner)

    def node_attributes(self, node: Node) -> Attributes:
        """Of the file, also one that has lost its name and is open."""
        try:
            return self.attributes(self.place(node))
        except Refused:
            for descriptor in node.descriptors:
                facts = os.fstat(descriptor)
                if identity_of(facts) == node.identity:
                    return self._attributes(facts, Owner.of(facts))
            raise

    def owner(self, place: Place) -> Owner:
        return self.owners.of(place.directory, place.name, place.facts, identity_of(place.facts))

    def _attributes(self, facts: os.stat_result, owner: Owner) -> Attributes:
        # Other file systems below the share have inode numbers of their own.
        ino = facts.st_ino if facts.st_dev == self._device else (facts.st_ino ^ facts.st_dev << 40) & (1 << 64) - 1
        return Attributes(
            ino=ino & (1 << 64) - 1,
            size=facts.st_size,
            blocks=getattr(facts, "st_blocks", -(-facts.st_size // 512)),
            atime_ns=facts.st_atime_ns,
            mtime_ns=facts.st_mtime_ns,
            ctime_ns=facts.st_ctime_ns,
            mode=stat.S_IFMT(facts.st_mode) | owner.mode,
            links=facts.st_nlink,
            uid=owner.uid,
            gid=owner.gid,
        )


def identity_of(facts: os.stat_result) -> Identity:
    return facts.st_dev, facts.st_ino, stat.S_IFMT(facts.st_mode)


def stat_at(directory: files.Directory, name: str) -> os.stat_result:
    path, dir_fd = files.at(directory, name)
    return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)


def checked(name: bytes) -> bytes:
    """A guest that is not what it was could ask for anything: a name is one step down, never more."""
    if not name or name in (b".", b"..") or b"/" in name:
        raise Refused(EINVAL if name else ENOENT)
    return name

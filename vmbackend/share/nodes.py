"""Which file of a share each of the guest's node numbers means.

A node is a file, not a name: told by device and inode, it may have several names (hard links), and keeps its number
when it is renamed. The guest keeps node numbers as long as it likes, also over a restart of the hostagent: so they are
written to a journal, and a hostagent that finds the guest running takes them over from it.
"""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vmbackend.share.wire import ROOT_ID

# (device, inode, type): an inode number used again for a file of another type is another file.
Identity = tuple[int, int, int]

_COMPACT_AFTER_LINES = 100_000


class Node:
    """`names` are the (parent, name) pairs known to lead to it; `seen` is what its content was known by last."""

    __slots__ = ("descriptors", "identity", "lookups", "names", "number", "seen")

    def __init__(self, number: int, identity: Identity | None) -> None:
        self.number = number
        self.identity = identity
        self.names: dict[tuple[int, bytes], None] = {}
        self.lookups = 0
        self.descriptors: list[int] = []
        self.seen: tuple[int, int] | None = None


class NodeTable:
    """`journal` None: the numbers end with this process."""

    def __init__(self, journal: Path | None = None) -> None:
        self._path = journal
        self._journal: IO[str] | None = None
        self._reset()

    def _reset(self) -> None:
        self._nodes: dict[int, Node] = {ROOT_ID: Node(ROOT_ID, None)}
        self._by_identity: dict[Identity, Node] = {}
        self._by_name: dict[tuple[int, bytes], Node] = {}
        self._next = ROOT_ID + 1
        self._lines = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def begin(self) -> None:
        """The guest has mounted the share anew: it knows no numbers. Raises OSError."""
        self.close()
        self._reset()
        if self._path is not None:
            self._journal = self._path.open("w", encoding="ascii", buffering=1)

    def take_over(self) -> None:
        """The guest has it mounted already: read what an earlier hostagent gave out. Raises OSError."""
        if self._path is None or self._journal is not None:
            return
        lines = self._path.read_text(encoding="ascii").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                number, parent, name = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            node = self._nodes.setdefault(number, Node(number, None))
            node.lookups = 1
            self._name(node, parent, base64.b64decode(name))
            self._next = max(self._next, number + 1)
        self._compact()

    def get(self, number: int) -> Node | None:
        return self._nodes.get(number)

    def named(self, parent: int, name: bytes) -> Node | None:
        """The node last known by that name."""
        return self._by_name.get((parent, name))

    def meet(self, parent: int, name: bytes, identity: Identity | None) -> Node:
        """The node of the file found by that name; `identity` None: the one that was known by it, or a new one."""
        known = self._by_name.get((parent, name))
        if identity is None:
            node = known or self._new(None)
        elif known is not None and known.identity == identity:
            node = known
        elif identity in self._by_identity:
            node = self._by_identity[identity]
        elif known is not None and known.identity is None:
            node = known
            node.identity = identity
            self._by_identity[identity] = node
        else:
            node = self._new(identity)
        if known is not node:
            self._name(node, parent, name)
            self._write(node.number, parent, name)
        return node

    def move(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        node = self.named(parent, name)
        self.lose(parent, name)
        if node is not None:
            self._name(node, new_parent, new_name)
            self._write(node.number, new_parent, new_name)

    def lose(self, parent: int, name: bytes) -> None:
        """The name is gone; the node stays as long as the guest knows it."""
        node = self._by_name.pop((parent, name), None)
        if node is not None:
            node.names.pop((parent, name), None)

    def forget(self, number: int, lookups: int) -> Node | None:
        """The guest drops that many references; the node that is gone by that."""
        node = self._nodes.get(number)
        if node is None or number == ROOT_ID:
            return None
        node.lookups -= lookups
        if node.lookups > 0:
            return None
        del self._nodes[number]
        if node.identity is not None and self._by_identity.get(node.identity) is node:
            del self._by_identity[node.identity]
        for key in node.names:
            if self._by_name.get(key) is node:
                del self._by_name[key]
        return node

    def path(self, node: Node) -> list[bytes] | None:
        """The names that lead to the node from the root; None when no name is known."""
        steps: list[bytes] = []
        while node.number != ROOT_ID:
            if not node.names or len(steps) > 4096:
                return None
            parent, name = next(iter(node.names))
            steps.append(name)
            above = self._nodes.get(parent)
            if above is None:
                return None
            node = above
        return steps[::-1]

    def close(self) -> None:
        """The journal stays: the guest may go on, and the next hostagent with it."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _new(self, identity: Identity | None) -> Node:
        node = Node(self._next, identity)
        self._next += 1
        self._nodes[node.number] = node
        if identity is not None:
            self._by_identity[identity] = node
        return node

    def _name(self, node: Node, parent: int, name: bytes) -> None:
        self.lose(parent, name)
        if node.identity is not None and stat.S_ISDIR(node.identity[2]):
            # A directory has one name: one found elsewhere was moved.
            for key in node.names:
                self._by_name.pop(key, None)
            node.names.clear()
        # The newest name first: it is the likeliest to be there still.
        node.names = {(parent, name): None, **node.names}
        self._by_name[(parent, name)] = node

    def _write(self, number: int, parent: int, name: bytes) -> None:
        if self._journal is not None:
            self._journal.write(_line(number, parent, name))
            self._lines += 1
            if self._lines > _COMPACT_AFTER_LINES + 2 * len(self._by_name):
                self._compact()

    def _compact(self) -> None:
        assert self._path is not None
        if self._journal is not None:
            self._journal.close()
        draft = self._path.with_name(f"{self._path.name}.new")
        with draft.open("w", encoding="ascii") as stream:
            stream.writelines(self._living())
        draft.replace(self._path)
        self._journal = self._path.open("a", encoding="ascii", buffering=1)
        self._lines = 0

    def _living(self) -> Iterator[str]:
        for node in self._nodes.values():
            for parent, name in reversed(node.names):
                yield _line(node.number, parent, name)


def _line(number: int, parent: int, name: bytes) -> str:
    return f'[{number},{parent},"{base64.b64encode(name).decode()}"]\n'

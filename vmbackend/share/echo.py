"""Let inotify in the guest tell of changes made on this computer.

The agent in the guest does again what was done here: creates, deletes, renames. Its requests, told by its thread's
number, are confirmed and not performed: the kernel of the guest then tells everybody who watches, with the very events
of a real change.
"""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vmbackend.share import wire
from vmbackend.share.errnos import ENOENT, Refused, linux_errno
from vmbackend.share.nodes import Node
from vmbackend.share.server import ShareServer, renaming
from vmbackend.share.wire import Attributes, Request

Kind = Literal["create", "mkdir", "symlink", "modify", "attrib", "delete", "rmdir", "move"]

# A name nobody has: asked for, it says that the agent is through with a batch.
_MARK = b".wherry-all-changes-told"
_APPEARING = ("create", "mkdir", "symlink")
_VANISHING = ("delete", "rmdir")


@dataclass(frozen=True)
class Change:
    """What happened to `path`, names from the share's root on; `new_path` is where a moved one went."""

    kind: Kind
    path: tuple[bytes, ...]
    new_path: tuple[bytes, ...] = ()
    is_directory: bool = False


class Echo:
    """For the thread of the share's server. One batch at a time: `idle` says whether the last is through."""

    def __init__(self, server: ShareServer, guest_path: str) -> None:
        self._server = server
        self._tree = server.tree
        self._guest_path = guest_path
        self._appearing: set[tuple[int, bytes]] = set()
        self._vanishing: dict[tuple[int, bytes], bool] = {}
        self.idle = True
        self.tid = 0

    def begin(self, tid: int) -> None:
        """A new connection: what was under way before is not."""
        self.tid = tid
        self._through()

    def batch(self, changes: Iterable[Change]) -> list[bytes]:
        """Messages for the guest that make it tell of the changes, each path at most once in them."""
        notices: list[bytes] = []
        steps: list[list[str]] = []
        for change in changes:
            keys = [self.key(change.path)] + ([self.key(change.new_path)] if change.kind == "move" else [])
            if None in keys:
                continue  # the guest has never looked into that directory, so nobody watches it
            known = [key for key in keys if key is not None]
            if change.kind in ("modify", "attrib"):
                node = self._tree.nodes.named(*known[0])
                notices += [wire.inode_changed(node.number)] if node else []
            else:
                notices += [wire.entry_changed(*key) for key in known]
            if change.kind in _APPEARING:
                self._appearing.add(known[0])
            elif change.kind in _VANISHING or change.kind == "move":
                self._vanishing[known[0]] = change.is_directory
                self._appearing.update(known[1:])
            paths = [change.path, change.new_path] if change.kind == "move" else [change.path]
            steps.append([change.kind, *(self._in_guest(path) for path in paths)])
        if not steps:
            return []
        self.idle = False
        steps.append(["attrib", self._in_guest((_MARK,))])
        return [*notices, wire.provocation(json.dumps(steps).encode())]

    def answer(self, request: Request) -> bytes | None:
        """As the server's, for requests of the agent's own thread."""
        if request.opcode in wire.SILENT:
            return self._server.answer(request)
        try:
            body = self._confirm(request)
        except Refused as refused:
            return wire.refusal(request.unique, refused.errno)
        except OSError as error:
            return wire.refusal(request.unique, linux_errno(error))
        return self._server.answer(request) if body is None else wire.reply(request.unique, body)

    def _confirm(self, request: Request) -> bytes | None:
        match request.opcode:
            case wire.LOOKUP:
                return self._lookup(request.node, wire.name_of(request.body))
            case wire.CREATE:
                name = wire.name_of(request.body, wire.CREATE_IN.size)
                return self._appear(request.node, name) + wire.OPEN_OUT.pack(0, 0, 0)
            case wire.MKDIR:
                return self._appear(request.node, wire.name_of(request.body, wire.MKDIR_IN.size))
            case wire.SYMLINK:
                return self._appear(request.node, wire.name_of(request.body))
            case wire.OPEN:
                return wire.OPEN_OUT.pack(0, 0, 0)
            case wire.GETATTR | wire.SETATTR:
                return wire.pack_attr_out(self._attributes(self._tree.node(request.node), False), 0)
            case wire.UNLINK | wire.RMDIR:
                name = wire.name_of(request.body)
                self._vanishing.pop((request.node, name), None)
                self._tree.nodes.lose(request.node, name)
                return b""
            case wire.RENAME | wire.RENAME2:
                new_parent, _, name, new_name = renaming(request)
                self._vanishing.pop((request.node, name), None)
                self._appearing.discard((new_parent, new_name))
                self._tree.nodes.move(request.node, name, new_parent, new_name)
                return b""
            case wire.MKNOD | wire.LINK | wire.WRITE | wire.FALLOCATE:
                return b""
        return None

    def _lookup(self, parent: int, name: bytes) -> bytes | None:
        if parent == wire.ROOT_ID and name == _MARK:
            self._through()
            raise Refused(ENOENT)
        if (parent, name) in self._appearing:
            raise Refused(ENOENT)
        if (parent, name) in self._vanishing:
            node = self._tree.nodes.meet(parent, name, None)
            return self._server.entry(node, self._attributes(node, self._vanishing[parent, name]), 0)
        return None

    def _appear(self, parent: int, name: bytes) -> bytes:
        self._appearing.discard((parent, name))
        return self._server.entry(*self._tree.find(parent, name), 0)

    def _attributes(self, node: Node, is_directory: bool) -> Attributes:
        """What is still there, or what is needed to let go of what is not."""
        try:
            return self._tree.node_attributes(node)
        except (OSError, Refused):
            kind = node.identity[2] if node.identity else stat.S_IFDIR if is_directory else stat.S_IFREG
            now = time.time_ns()
            return Attributes(node.number, 0, 0, now, now, now, kind | 0o700, 1, 0, 0)

    def _through(self) -> None:
        self._appearing.clear()
        self._vanishing.clear()
        self.idle = True

    def key(self, path: tuple[bytes, ...]) -> tuple[int, bytes] | None:
        """The parent's node and the name, if the guest knows the parent."""
        parent = wire.ROOT_ID
        for name in path[:-1]:
            node = self._tree.nodes.named(parent, name)
            if node is None:
                return None
            parent = node.number
        return (parent, path[-1]) if path else None

    def _in_guest(self, path: tuple[bytes, ...]) -> str:
        return "/".join([self._guest_path.rstrip("/"), *(name.decode("utf-8", "surrogateescape") for name in path)])

"""Files that COPY and ADD read: of the build context, or of the root file system of a stage or an image."""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from runtime.container.rootpath import open_in
from runtime.content.tree import walk
from runtime.content.tree_writer import may_carry
from runtime.dockerfile.ignore import path_pattern
from runtime.engine.build.context import Context, ContextFile, compiled, has_wildcards
from runtime.engine.roots import resolved_path
from runtime.errors import NotFound

Kind = Literal["file", "directory", "symlink", "node"]
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class SourceFile:
    """`fill(fd)` writes a file's data; `digest()` is that of all that matters of it but its name and time."""

    kind: Kind
    mode: int
    mtime_ns: int
    size: int
    target: str
    fill: Callable[[int], None]
    digest: Callable[[], bytes]
    device: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


Keep = Callable[[str, bool], bool]
"""Whether to take a path below a source, given that and whether it is a directory."""


class Files(Protocol):
    """A tree of files; paths have no leading slash, "" is the top. Valid while the tree is open."""

    def matches(self, pattern: str) -> Sequence[str]:
        """The paths that fit a source: itself when it has no wildcards. Raises NotFound if it is not there."""

    def find(self, path: str) -> tuple[str, SourceFile]:
        """What `path` leads to, and where that is. Raises NotFound."""

    def walk(self, top: str) -> Iterator[tuple[str, SourceFile]]:
        """All below a directory, parents first; each is to be used before the next."""


class ContextFiles:
    def __init__(self, context: Context) -> None:
        self._context = context

    def matches(self, pattern: str) -> Sequence[str]:
        return self._context.matches(pattern)

    def find(self, path: str) -> tuple[str, SourceFile]:
        found = self._context.resolve(path)
        return found, self._source(self._context.files[found])

    def walk(self, top: str) -> Iterator[tuple[str, SourceFile]]:
        for path, file in self._context.walk(top):
            yield path, self._source(file)

    def _source(self, file: ContextFile) -> SourceFile:
        spool_fd = self._context.spool_fd

        def fill(fd: int) -> None:
            position, missing = file.offset, file.size
            while missing:
                sent = os.sendfile(fd, spool_fd, position, missing)
                if not sent:
                    raise OSError("the build context's file ends too early")
                position += sent
                missing -= sent

        def digest() -> bytes:
            return b"%b%o %b%b" % (file.kind[:1].encode(), file.mode, os.fsencode(file.target), file.digest)

        return SourceFile(file.kind, file.mode, file.mtime_ns, file.size, file.target, fill, digest)


class MemoryFiles:
    """Files of which the content is here, all at the top."""

    def __init__(self, content: Mapping[str, bytes], mode: int = 0o644, mtime_ns: int = 0) -> None:
        self._content = content
        self._mode = mode
        self._mtime_ns = mtime_ns

    def matches(self, pattern: str) -> Sequence[str]:
        return [pattern]

    def find(self, path: str) -> tuple[str, SourceFile]:
        data = self._content[path]

        def fill(fd: int) -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]

        def digest() -> bytes:
            return b"f%o " % self._mode + hashlib.sha256(data).digest()

        return path, SourceFile("file", self._mode, self._mtime_ns, len(data), "", fill, digest)

    def walk(self, top: str) -> Iterator[tuple[str, SourceFile]]:
        return iter(())


class TreeFiles:
    """A mounted root file system; symlinks resolve inside of it."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd

    def matches(self, pattern: str) -> Sequence[str]:
        pattern = posixpath.normpath("/" + pattern).lstrip("/")
        if not has_wildcards(pattern):
            self.find(pattern)
            return [pattern]
        fixed: list[str] = []  # the names before the first with a wildcard: only below them need we look
        for name in pattern.split("/"):
            if has_wildcards(name):
                break
            fixed.append(name)
        top, depth, expression = "/".join(fixed), pattern.count("/"), compiled(pattern)
        found = []
        for path, _ in self._walk_to(top, depth - len(fixed)):
            whole = f"{top}/{path}" if top else path
            if expression.fullmatch(whole):
                found.append(whole)
        return sorted(found)

    def find(self, path: str) -> tuple[str, SourceFile]:
        try:
            resolved = resolved_path(self._root_fd, "/" + path).lstrip("/")
            directory, name = posixpath.split(resolved)
            directory_fd = open_in(self._root_fd, "/" + directory, os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f'"/{path.strip("/")}": not found') from None
        try:
            info = os.stat(name or ".", dir_fd=directory_fd, follow_symlinks=False)
        finally:
            os.close(directory_fd)

        def open_file() -> int:
            return open_in(self._root_fd, "/" + resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)

        return resolved, _of_info(info, open_file, "")

    def walk(self, top: str) -> Iterator[tuple[str, SourceFile]]:
        yield from self._walk_to(top, None)

    def _walk_to(self, top: str, depth: int | None) -> Iterator[tuple[str, SourceFile]]:
        try:
            top_fd = open_in(self._root_fd, "/" + top, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            for node in walk(top_fd):
                if depth is not None and node.path.count("/") > depth:
                    continue
                target = ""
                if stat.S_ISLNK(node.info.st_mode):
                    target = os.readlink(node.name, dir_fd=node.parent_fd)
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

                def open_file(name: str = node.name, parent_fd: int = node.parent_fd, flags: int = flags) -> int:
                    return os.open(name, flags, dir_fd=parent_fd)

                if not stat.S_ISSOCK(node.info.st_mode):
                    yield node.path, _of_info(node.info, open_file, target)
        finally:
            os.close(top_fd)


def _of_info(info: os.stat_result, open_file: Callable[[], int], target: str) -> SourceFile:
    kind: Kind = "node"
    for test, name in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink")):
        if test(info.st_mode):
            kind = name  # type: ignore[assignment]
    mode = stat.S_IMODE(info.st_mode) if kind != "node" else info.st_mode
    xattrs: dict[str, bytes] = {}
    if kind in ("file", "directory"):
        xattrs = _xattrs(open_file)

    def fill(fd: int) -> None:
        source_fd = open_file()
        try:
            position, missing = 0, info.st_size
            while missing:
                sent = os.sendfile(fd, source_fd, position, missing)
                if not sent:
                    break
                position += sent
                missing -= sent
        finally:
            os.close(source_fd)

    def digest() -> bytes:
        found = hashlib.sha256()
        if kind == "file":
            source_fd = open_file()
            try:
                while chunk := os.read(source_fd, _CHUNK_BYTES):
                    found.update(chunk)
            finally:
                os.close(source_fd)
        about = b"%b%o %b %d" % (kind[:1].encode(), mode, os.fsencode(target), info.st_rdev)
        return about + b"".join(name.encode() + xattrs[name] for name in sorted(xattrs)) + found.digest()

    return SourceFile(
        kind, mode, info.st_mtime_ns, info.st_size, target, fill, digest, device=info.st_rdev, xattrs=xattrs
    )


def _xattrs(open_file: Callable[[], int]) -> dict[str, bytes]:
    fd = open_file()
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if may_carry(name)}
    finally:
        os.close(fd)


# --- what a COPY takes


@dataclass(frozen=True)
class Item:
    """One source: a file or directory at `path`; `name` is what it is called where it lands in a directory."""

    path: str
    name: str
    is_directory: bool
    base: str = ""  # with --parents, the directory from which on the path is kept
    kept_parents: str | None = None  # and what of it is kept; None without --parents

    @property
    def parents(self) -> list[str]:
        """The directories of `kept_parents`, the outermost first; of a directory without itself."""
        names = self.kept_parents.split("/") if self.kept_parents else []
        return ["/".join(names[:count]) for count in range(1, len(names) + (not self.is_directory))]


def select(files: Files, sources: Sequence[str], parents: bool) -> list[Item]:
    """What the sources of a COPY stand for. Raises NotFound naming a source that is not there.

    Wildcards may fit nothing.
    """
    if parents:
        return [item for source in sources for item in _select_with_parents(files, source)]
    found = [(path, *files.find(path)) for source in sources for path in files.matches(source)]
    return [Item(resolved, posixpath.basename(path), file.kind == "directory") for path, resolved, file in found]


def _select_with_parents(files: Files, source: str) -> Iterator[Item]:
    """BuildKit's rules: a path is kept from `/./` on, and `**` stands for any directories."""
    before, pivot, behind = source.partition("/./")
    bases = [_clean(base) for base in files.matches(before)] if pivot and _clean(before) else [""]
    pattern = _clean(behind if pivot else source)
    for base in bases:
        for path in _deep_matches(files, base, pattern):
            resolved, file = files.find(posixpath.join(base, path))
            is_directory = file.kind == "directory"
            kept_parents = path if is_directory else posixpath.dirname(path)
            yield Item(resolved, posixpath.basename(path), is_directory, base, kept_parents)


def _deep_matches(files: Files, base: str, pattern: str) -> list[str]:
    """Paths below `base`, without those below one of them."""
    if not has_wildcards(pattern):
        return [pattern]
    names = pattern.split("/")
    fixed = "/".join(itertools.takewhile(lambda name: not has_wildcards(name), names))
    expression = path_pattern(pattern)
    found: list[str] = []
    for below, _ in files.walk(posixpath.join(base, fixed).rstrip("/")):
        path = posixpath.join(fixed, below)
        if expression.fullmatch(path) and not (found and path.startswith(f"{found[-1]}/")):
            found.append(path)
    return found


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path).strip("/")


def contents_of(files: Files, item: Item, keep: Keep) -> Iterator[tuple[str, SourceFile]]:
    """All that is copied of a directory, its own path ("") first."""
    yield "", files.find(item.path)[1]
    for path, file in files.walk(item.path):
        if keep(f"{item.path}/{path}" if item.path else path, file.kind == "directory"):
            yield path, file


def digest_of(files: Files, items: Sequence[Item], keep: Keep) -> str:
    """As Docker names it in an image's history: `file:HEX`, `dir:HEX` or `multi:HEX`."""
    found = []
    for item in items:
        digest = hashlib.sha256((item.kept_parents or "").encode("utf-8", "surrogateescape"))
        for parent in item.parents:
            digest.update(files.find(posixpath.join(item.base, parent))[1].digest())
        if item.is_directory:
            for path, file in contents_of(files, item, keep):
                digest.update(b"%b\0%b\0" % (path.encode("utf-8", "surrogateescape"), file.digest()))
            found.append(f"dir:{digest.hexdigest()}")
        else:
            digest.update(item.name.encode("utf-8", "surrogateescape") + b"\0" + files.find(item.path)[1].digest())
            found.append(f"file:{digest.hexdigest()}")
    if len(found) == 1:
        return found[0]
    return f"multi:{hashlib.sha256(','.join(found).encode()).hexdigest()}"

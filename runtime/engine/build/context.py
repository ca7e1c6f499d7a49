"""The build context: the client's tar as it came, in a file without a name, with an index of what is in it.

Data is hashed while it arrives and is never unpacked: COPY reads a file's bytes from its place in the tar. So a build
that finds everything in its cache has written the context once, and looked at nothing a second time.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import posixpath
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from runtime.content import tar_reader
from runtime.content.compression import Readable, decompressed
from runtime.content.tar_reader import TarEntry, TarReader
from runtime.content.tree import SYMLINKS_MAX
from runtime.errors import InvalidParameter, NotFound

Kind = Literal["file", "directory", "symlink"]

_KINDS: dict[bytes, Kind] = {
    tar_reader.REGULAR: "file",
    tar_reader.DIRECTORY: "directory",
    tar_reader.SYMLINK: "symlink",
}
_CHUNK_BYTES = 1 << 20
_WRITE_BYTES = 1 << 20
_WILDCARDS = re.compile(r"(?<!\\)[*?\[]")


@dataclass(slots=True)
class ContextFile:
    """One file of the context. `digest` is that of its data, `offset` where they are in the spool."""

    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    offset: int = 0
    digest: bytes = b""
    target: str = ""


class Context:
    """All files of a context by path, without leading slash; "" is the top."""

    def __init__(self, directory: Path, spool: IO[bytes] | None = None) -> None:
        """The spool is on the file system of `directory`; it goes with the block, or with the process."""
        self._spool = spool or tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (closed by `__exit__`)
        self.spool_fd = self._spool.fileno()
        self.files: dict[str, ContextFile] = {"": ContextFile("directory", 0o755, 0)}
        self._children: dict[str, list[str]] | None = None
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._spool.close()

    # --- filling

    def receive(self, stream: Readable) -> None:
        """Takes in a tar, compressed or not. Blocks. Raises InvalidParameter, OSError."""
        plain, _ = decompressed(stream)
        if not plain.peek(1):
            return
        pending: list[bytes] = []
        pending_size = 0
        reader = TarReader(plain)
        for entry in reader:
            path = _path_of(entry.name)
            kind = _KINDS.get(entry.kind)
            if kind is None:
                self._add_other(path, entry)
                continue
            file = ContextFile(kind, entry.mode, entry.mtime_ns, target=entry.link_target)
            if kind == "file":
                file.size, file.offset = entry.size, self._size
                if entry.segments is None and entry.size <= _CHUNK_BYTES:
                    data = reader.read()
                    file.digest = hashlib.sha256(data).digest()
                    pending.append(data)
                    pending_size += len(data)
                else:
                    digest = hashlib.sha256()
                    for chunk in _plain_chunks(entry, reader):
                        digest.update(chunk)
                        pending.append(chunk)
                        pending_size += len(chunk)
                        if pending_size >= _WRITE_BYTES:
                            self._spool.write(b"".join(pending))
                            pending, pending_size = [], 0
                    file.digest = digest.digest()
                self._size += entry.size
                if pending_size >= _WRITE_BYTES:
                    self._spool.write(b"".join(pending))
                    pending, pending_size = [], 0
            self._put(path, file)
        self._spool.write(b"".join(pending))
        self._spool.flush()
        while plain.read(_CHUNK_BYTES):
            pass  # what follows the end of the archive: a client must be able to send all of it

    def add(self, path: str, data: bytes, mode: int = 0o644, mtime_ns: int = 0) -> None:
        """A file that did not come with the tar, or instead of the one that did."""
        digest = hashlib.sha256(data).digest()
        os.pwrite(self.spool_fd, data, self._size)
        self._put(_path_of(path), ContextFile("file", mode, mtime_ns, len(data), self._size, digest))
        self._spool.seek(0, os.SEEK_END)
        self._size += len(data)

    def add_stream(self, path: str, chunks: Iterable[bytes], mode: int, mtime_ns: int) -> None:
        """As `add`, for what is too large to hold. Blocks."""
        digest = hashlib.sha256()
        start = self._size
        for chunk in chunks:
            digest.update(chunk)
            os.pwrite(self.spool_fd, chunk, self._size)
            self._size += len(chunk)
        self._spool.seek(0, os.SEEK_END)
        self._put(_path_of(path), ContextFile("file", mode, mtime_ns, self._size - start, start, digest.digest()))

    def add_directory(self, path: str, mode: int, mtime_ns: int) -> None:
        self._put(_path_of(path), ContextFile("directory", mode, mtime_ns))

    def add_symlink(self, path: str, target: str, mtime_ns: int) -> None:
        self._put(_path_of(path), ContextFile("symlink", 0o777, mtime_ns, target=target))

    def remove(self, path: str) -> None:
        """Nothing if there is no such file."""
        self.files.pop(_path_of(path), None)
        self._children = None

    def cut_out(self, top: str) -> Context:
        """What is below `top` as a context of its own, on the same spool, and out of this one."""
        part = Context(Path(), self._spool)
        prefix = f"{_path_of(top)}/"
        for path in [path for path in self.files if path.startswith(prefix)]:
            part._put(path.removeprefix(prefix), self.files.pop(path))
        self.remove(top)
        return part

    def _add_other(self, path: str, entry: TarEntry) -> None:
        if entry.kind == tar_reader.HARD_LINK:
            original = self.files.get(_path_of(entry.link_target))
            if original is None or original.kind != "file":
                raise InvalidParameter(f'the build context\'s "{entry.name}" is a hard link to nothing')
            self._put(path, original)
        # Devices and pipes have no content that could be copied: clients leave them out, and so does Docker.

    def _put(self, path: str, file: ContextFile) -> None:
        self._children = None
        if path == "" and file.kind != "directory":
            raise InvalidParameter("the build context is not a directory")
        self.files[path] = file
        parent = posixpath.dirname(path)
        while parent not in self.files:
            self.files[parent] = ContextFile("directory", 0o755, file.mtime_ns)
            parent = posixpath.dirname(parent)

    # --- reading

    def read(self, file: ContextFile) -> bytes:
        return os.pread(self.spool_fd, file.size, file.offset)

    def open(self, file: ContextFile) -> io.BufferedReader:
        """Its data as a stream."""
        return io.BufferedReader(_Part(self.spool_fd, file.offset, file.size))

    def children(self, path: str) -> list[str]:
        """Names in the directory `path`, sorted."""
        if self._children is None:
            found: dict[str, list[str]] = {}
            for other in self.files:
                if other:
                    parent, _, name = other.rpartition("/")
                    found.setdefault(parent, []).append(name)
            for names in found.values():
                names.sort()
            self._children = found
        return self._children.get(path, [])

    def resolve(self, path: str) -> str:
        """The path after every symlink of it, none of which leads out. Raises NotFound."""
        names: list[str] = []
        pending = path.split("/")[::-1]
        symlinks = 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                names = names[:-1]
                continue
            here = "/".join([*names, name])
            file = self.files.get(here)
            if file is None:
                raise NotFound(f'"/{path.strip("/")}": not found')
            if file.kind == "symlink":
                symlinks += 1
                if symlinks > SYMLINKS_MAX:
                    raise NotFound(f'"/{path.strip("/")}": too many levels of symbolic links')
                if file.target.startswith("/"):
                    names = []
                pending.extend(file.target.split("/")[::-1])
                continue
            names.append(name)
        return "/".join(names)

    def matches(self, pattern: str) -> list[str]:
        """The paths that fit a source of COPY: itself when it has no wildcards. Raises NotFound if it is not there."""
        pattern = posixpath.normpath("/" + pattern).lstrip("/")
        if not has_wildcards(pattern):
            self.resolve(pattern)
            return [pattern]
        expression = compiled(pattern)
        return sorted(path for path in self.files if path and expression.fullmatch(path))

    def walk(self, top: str) -> Iterator[tuple[str, ContextFile]]:
        """Everything below the directory `top`, parents first, in the order of names; paths relative to it."""
        pending = [(name, f"{top}/{name}" if top else name) for name in reversed(self.children(top))]
        while pending:
            relative, path = pending.pop()
            file = self.files[path]
            yield relative, file
            if file.kind == "directory":
                pending.extend((f"{relative}/{name}", f"{path}/{name}") for name in reversed(self.children(path)))


class _Part(io.RawIOBase):
    """A range of a file, read without moving its position."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._fd, min(len(buffer), self._end - self._offset), self._offset)
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)


def _path_of(name: str) -> str:
    """Clients send `./a/`, `a` and `/a`: all mean a. Raises InvalidParameter when `..` leads outside."""
    if name and name[0] not in "./" and "//" not in name and "/." not in name and name[-1] != "/":
        return name
    path = posixpath.normpath(name.lstrip("/")) if name else ""
    if path == ".." or path.startswith("../"):
        raise InvalidParameter(f'the build context names "{name}", which lies outside of it')
    return "" if path == "." else path


def _plain_chunks(entry: TarEntry, reader: TarReader) -> Iterator[bytes]:
    """The data with the holes of a sparse file filled in."""
    if entry.segments is None:
        yield from reader.chunks()
        return
    position = 0
    for offset, length in [*entry.segments, (entry.size, 0)]:
        while position < offset:
            zeros = min(offset - position, _CHUNK_BYTES)
            yield bytes(zeros)
            position += zeros
        while length:
            chunk = reader.read(min(length, _CHUNK_BYTES))
            yield chunk
            length -= len(chunk)
            position += len(chunk)


def has_wildcards(pattern: str) -> bool:
    return _WILDCARDS.search(pattern) is not None


def compiled(pattern: str) -> re.Pattern[str]:
    """Go's filepath.Match: as fnmatch, but `*` and `?` stop at slashes, `[^a]` negates and `\\` quotes."""
    parts: list[str] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        index += 1
        if character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "\\" and index < len(pattern):
            parts.append(re.escape(pattern[index]))
            index += 1
        elif character == "[" and (end := pattern.find("]", index + 1)) > 0:
            inside = pattern[index:end]
            negated = inside[:1] in ("^", "!")
            text = fnmatch.translate(f"[{'!' if negated else ''}{inside[1:] if negated else inside}]")
            parts.append(text.removeprefix("(?s:").removesuffix(r")\Z"))
            index = end + 1
        else:
            parts.append(re.escape(character))
    return re.compile("".join(parts), re.DOTALL)

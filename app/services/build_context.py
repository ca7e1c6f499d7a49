"""The files an image is built from, packed as .dockerignore wants it."""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from app.core.errors import UserError
from runtime.dockerfile.ignore import Matcher, file_names, parse_file
from runtime.errors import InvalidParameter

BEGIN_BYTES = tarfile.BLOCKSIZE  # what it takes to know an archive
OnBytes = Callable[[int], None]

_COMPRESSED = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_PIECE_BYTES = 1 << 20
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_SHORT_NAME = 99
_NOBODY = b"0000000\0" * 2  # owner and group
_REST = bytes(100) + b"ustar\x0000" + bytes(247)  # what is the same in every header
_REST_SUM = sum(_NOBODY) + sum(_REST) + sum(b" " * 8)  # the checksum's own field counts as blanks
_OWN_DOCKERFILE = ".dockerfile.wherry"  # a Dockerfile from outside the context, inside of it


def local_context(
    context: str, dockerfile: str, dockerfile_text: bytes | None, directories: Mapping[str, str], on_bytes: OnBytes
) -> tuple[str, Iterator[bytes]]:
    """The Dockerfile's name in the context, and the context as a tar. Raises UserError.

    `context` is a directory, or "-" for a `dockerfile_text` alone. `directories` come with it, below the names given.
    """
    extra: dict[str, bytes] = {}
    for other in directories.values():
        if not Path(other).is_dir():
            raise UserError(f"failed to get build context {other}: it is no directory.")
    if context == "-":
        extra[_OWN_DOCKERFILE] = dockerfile_text or b""
        return _OWN_DOCKERFILE, counted(_all_of(None, Matcher(()), extra, (), directories), on_bytes)
    top = Path(context)
    if not top.is_dir():
        raise UserError(f"unable to prepare context: path {str(top)!r} not found.")
    if dockerfile_text is not None:
        name, extra[_OWN_DOCKERFILE] = _OWN_DOCKERFILE, dockerfile_text
    else:
        path = Path(dockerfile) if dockerfile else top / "Dockerfile"
        if not path.is_file():
            raise UserError(f"the Dockerfile {path} cannot be found.", "Name another with -f FILE.")
        try:
            name = path.resolve().relative_to(top.resolve()).as_posix()
        except ValueError:
            name, extra[_OWN_DOCKERFILE] = _OWN_DOCKERFILE, path.read_bytes()
    keep = (name, *file_names(name))  # the engine leaves them out of what is copied
    return name, counted(_all_of(top, matcher_of(top, name), extra, keep, directories), on_bytes)


def is_archive(begin: bytes) -> bool:
    """A tar or something compressed, by its first `BEGIN_BYTES`."""
    if begin.startswith(_COMPRESSED):
        return True
    try:
        tarfile.TarInfo.frombuf(begin, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def matcher_of(top: Path, dockerfile: str) -> Matcher:
    """What to leave out of the directory. Raises UserError."""
    for name in file_names(dockerfile) if dockerfile else (".dockerignore",):
        if (top / name).is_file():
            try:
                return Matcher(parse_file((top / name).read_bytes()))
            except InvalidParameter as error:
                raise UserError(f"{top / name}: {error}.") from None
    return Matcher(())


def _all_of(
    top: Path | None, matcher: Matcher, extra: Mapping[str, bytes], keep: Sequence[str], directories: Mapping[str, str]
) -> Iterator[bytes]:
    for name, data in extra.items():
        own = tarfile.TarInfo(name)
        own.size = len(data)
        yield own.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    if top:
        yield from _pack(top, matcher, keep, "")
    for name, directory in directories.items():
        yield from _pack(Path(directory), matcher_of(Path(directory), ""), (), f"{name}/")
    yield bytes(2 * tarfile.BLOCKSIZE)


def _pack(top: Path, matcher: Matcher, keep: Sequence[str], prefix: str) -> Iterator[bytes]:
    """Owners and the access times of files are nobody's business: everything is root's, as docker has it."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(top, directory)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        below = []
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not matcher.skips(path):
                    below.append(path)
                    if not matcher.ignores(path):
                        yield _head(prefix + path, entry.stat(follow_symlinks=False), tarfile.DIRTYPE)
            elif path in keep or not matcher.ignores(path):
                yield from _file(entry, prefix + path)
        pending += reversed(below)


def _file(entry: os.DirEntry[str], name: str) -> Iterator[bytes]:
    if entry.is_symlink():
        yield _head(name, entry.stat(follow_symlinks=False), tarfile.SYMTYPE, os.readlink(entry.path))
        return
    if not entry.is_file(follow_symlinks=False):
        return  # sockets and pipes
    try:
        fd = os.open(entry.path, _READ_FLAGS)
    except OSError as failed:
        raise UserError(
            f"{entry.path} cannot be read: {failed.strerror}.", "Leave it out in .dockerignore."
        ) from failed
    try:
        info = os.fstat(fd)
        head, padding = _head(name, info, tarfile.REGTYPE), bytes(-info.st_size % tarfile.BLOCKSIZE)
        data = os.read(fd, min(info.st_size, _PIECE_BYTES))
        if len(data) == info.st_size:
            yield head + data + padding  # all in one: most files are small
            return
        yield head
        left = info.st_size
        while left:
            data = data or bytes(min(left, _PIECE_BYTES))  # it has become shorter meanwhile
            left -= len(data)
            yield data
            data = os.read(fd, min(left, _PIECE_BYTES))
        yield padding
    finally:
        os.close(fd)


def _head(name: str, info: os.stat_result, kind: bytes, target: str = "") -> bytes:
    mode, mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)
    size = info.st_size if kind == tarfile.REGTYPE else 0
    if kind != tarfile.SYMTYPE and name.isascii() and len(name) < _SHORT_NAME and 0 <= mtime < 8**11 and size < 8**11:
        return _plain_head(name, mode, size, mtime, kind)
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    entry.mode, entry.mtime, entry.size = mode, mtime, size
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _plain_head(name: str, mode: int, size: int, mtime: int, kind: bytes) -> bytes:
    """As `tarfile` writes it where nothing needs a pax record; of thousands of files that takes a fifth of the time."""
    if kind == tarfile.DIRTYPE:
        name += "/"
    path, numbers = name.encode(), b"%011o\0%011o\0" % (size, mtime)
    permissions = b"%07o\0" % mode
    checksum = _REST_SUM + sum(path) + sum(permissions) + sum(numbers) + kind[0]
    return b"".join((path, bytes(100 - len(path)), permissions, _NOBODY, numbers, b"%06o\0 " % checksum, kind, _REST))


def counted(pieces: Iterator[bytes], on_bytes: OnBytes) -> Iterator[bytes]:
    """In pieces of a size worth sending."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(pending)
            on_bytes(size)
            pending, size = [], 0
    yield b"".join(pending)
    on_bytes(size)

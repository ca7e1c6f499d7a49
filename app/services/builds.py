"""Building an image: the context packed as .dockerignore wants it, sent, and what comes back."""

import base64
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.engine.streams import JsonStream
from runtime.dockerfile.ignore import Matcher, file_names, parse_file
from runtime.errors import InvalidParameter

OnBytes = Callable[[int], None]

SECRETS_HEADER = "X-Wherry-Secrets"
_PIECE_BYTES = 1 << 20
_OWN_DOCKERFILE = ".dockerfile.wherry"  # a Dockerfile from outside the context, inside of it


@dataclass
class BuildOptions:
    """`dockerfile` is a path on this computer, `dockerfile_text` what came on standard input instead of it."""

    context: str
    dockerfile: str = ""
    dockerfile_text: bytes | None = None
    tags: list[str] = field(default_factory=list)
    target: str = ""
    build_args: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    cache_from: list[str] = field(default_factory=list)
    platform: str = ""
    network: str = ""
    add_hosts: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    shm_bytes: int = 0
    secrets: dict[str, bytes] = field(default_factory=dict)


def is_remote(context: str) -> bool:
    return context.startswith(("http://", "https://", "git://", "git@", "ssh://", "github.com/"))


def start(client: EngineClient, options: BuildOptions, on_bytes: OnBytes) -> JsonStream[dict[str, Any]]:
    """The engine's messages, as Docker's JSON stream has them. Raises UserError, EngineError."""
    name, pieces = "Dockerfile", None
    if is_remote(options.context):
        name = options.dockerfile or name
    else:
        name, pieces = _local_context(options, on_bytes)
    query: list[tuple[str, str]] = [("dockerfile", name), ("rm", "1")]
    query += [("t", tag) for tag in options.tags]
    query += [("extrahosts", host) for host in options.add_hosts]
    if pieces is None:
        query.append(("remote", options.context))
    documents = {"buildargs": options.build_args, "labels": options.labels, "cachefrom": options.cache_from}
    query += [(key, json.dumps(value)) for key, value in documents.items() if value]
    texts = {
        "target": options.target,
        "platform": options.platform,
        "networkmode": options.network,
        "memory": str(options.memory_bytes or ""),
        "shmsize": str(options.shm_bytes or ""),
        "nocache": "1" if options.no_cache else "",
        "pull": "1" if options.pull else "",
    }
    query += [(key, value) for key, value in texts.items() if value]
    headers = {}
    if options.secrets:
        document = {id: base64.b64encode(data).decode() for id, data in options.secrets.items()}
        headers[SECRETS_HEADER] = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
    return client.build_image(urlencode(query), pieces, headers)


def check(options: BuildOptions) -> tuple[str, bool]:
    """What the linter says of the Dockerfile, and whether a build may go on. Raises UserError."""
    from runtime.dockerfile.lint import lint, report_text, violation

    if is_remote(options.context):
        raise UserError("--check reads Dockerfiles of this computer only.")
    top = None if options.context == "-" else Path(options.context)
    path = Path(options.dockerfile) if options.dockerfile else (top or Path()) / "Dockerfile"
    try:
        text = options.dockerfile_text if options.dockerfile_text is not None else path.read_bytes()
    except OSError as failed:
        raise UserError(f"the Dockerfile {path} cannot be read: {failed.strerror}.") from failed
    source = text.decode("utf-8", "replace")
    given = {name: value for name, value in options.build_args.items() if value is not None}
    try:
        findings = lint(source, build_args=given, ignore=_matcher(top, path.name) if top else None)
        refused = violation(source, findings, given)
    except InvalidParameter as error:
        raise UserError(f"{error}.") from None
    return "\n".join(filter(None, (report_text(source, findings, path.name), refused))), not findings


# --- the context


def _local_context(options: BuildOptions, on_bytes: OnBytes) -> tuple[str, Iterator[bytes]]:
    """The Dockerfile's name in the context, and the context as a tar."""
    if options.context == "-":
        extra = {_OWN_DOCKERFILE: options.dockerfile_text or b""}
        return _OWN_DOCKERFILE, _counted(_pack(None, Matcher(()), extra, keep=()), on_bytes)
    top = Path(options.context)
    if not top.is_dir():
        raise UserError(f"unable to prepare context: path {str(top)!r} not found.")
    extra = {}
    if options.dockerfile_text is not None:
        name, extra[_OWN_DOCKERFILE] = _OWN_DOCKERFILE, options.dockerfile_text
    else:
        path = Path(options.dockerfile) if options.dockerfile else top / "Dockerfile"
        if not path.is_file():
            raise UserError(f"the Dockerfile {path} cannot be found.", "Name another with -f FILE.")
        try:
            name = path.resolve().relative_to(top.resolve()).as_posix()
        except ValueError:
            name, extra[_OWN_DOCKERFILE] = _OWN_DOCKERFILE, path.read_bytes()
    keep = (name, *file_names(name))  # the engine leaves them out of what is copied
    return name, _counted(_pack(top, _matcher(top, name), extra, keep), on_bytes)


def _matcher(top: Path, dockerfile: str) -> Matcher:
    for name in file_names(dockerfile):
        if (top / name).is_file():
            try:
                return Matcher(parse_file((top / name).read_bytes()))
            except InvalidParameter as error:
                raise UserError(f"{top / name}: {error}.") from None
    return Matcher(())


def _pack(top: Path | None, matcher: Matcher, extra: dict[str, bytes], keep: Sequence[str]) -> Iterator[bytes]:
    """Owners and the access times of files are nobody's business: everything is root's, as docker has it."""
    for name, data in extra.items():
        own = tarfile.TarInfo(name)
        own.size = len(data)
        yield own.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    pending = [""] if top else []
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(top or "", directory)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        below = []
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not matcher.skips(path):
                    below.append(path)
                    if not matcher.ignores(path):
                        yield _head(path, entry.stat(follow_symlinks=False), tarfile.DIRTYPE)
            elif path in keep or not matcher.ignores(path):
                yield from _file(Path(entry.path), path, entry.stat(follow_symlinks=False))
        pending += reversed(below)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _file(path: Path, name: str, info: os.stat_result) -> Iterator[bytes]:
    if stat.S_ISLNK(info.st_mode):
        yield _head(name, info, tarfile.SYMTYPE, os.readlink(path))
        return
    if not stat.S_ISREG(info.st_mode):
        return  # sockets and pipes
    try:
        file = path.open("rb")
    except OSError as failed:
        raise UserError(f"{path} cannot be read: {failed.strerror}.", "Leave it out in .dockerignore.") from failed
    with file:
        info = os.fstat(file.fileno())
        yield _head(name, info, tarfile.REGTYPE)
        left = info.st_size
        while left:
            piece = file.read(min(left, _PIECE_BYTES)) or bytes(min(left, _PIECE_BYTES))
            left -= len(piece)
            yield piece
        yield bytes(-info.st_size % tarfile.BLOCKSIZE)


def _head(name: str, info: os.stat_result, kind: bytes, target: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    entry.mode = stat.S_IMODE(info.st_mode)
    entry.mtime = int(info.st_mtime)
    entry.size = info.st_size if kind == tarfile.REGTYPE else 0
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _counted(pieces: Iterator[bytes], on_bytes: OnBytes) -> Iterator[bytes]:
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


# --- the result as files


@dataclass(frozen=True)
class OutputTo:
    """`-o`: the files of the image in a directory (local), or as one archive (tar; "-" is standard output)."""

    kind: str
    destination: str


def parse_output(text: str) -> OutputTo:
    """`DIR`, `-`, or `type=local|tar,dest=PATH`. Raises UserError."""
    if "=" not in text:
        return OutputTo("tar" if text == "-" else "local", text)
    values = dict(part.partition("=")[::2] for part in text.split(","))
    kind, destination = values.get("type", ""), values.get("dest", values.get("destination", ""))
    if kind not in ("local", "tar") or (not destination and kind == "local"):
        raise UserError(f"-o {text} is not supported.", "Use type=local,dest=DIR or type=tar,dest=FILE.")
    return OutputTo(kind, destination or "-")


def write_output(client: EngineClient, image_id: str, output: OutputTo, stdout: Any) -> None:
    """Raises UserError, EngineError."""
    created = client.create_container({"Image": image_id, "Cmd": ["-"]})
    try:
        if output.kind == "tar" and output.destination == "-":
            for piece in client.export_container(created.id):
                stdout.write(piece)
            return
        with tempfile.TemporaryFile() if output.kind == "local" else Path(output.destination).open("wb") as file:
            for piece in client.export_container(created.id):
                file.write(piece)
            if output.kind == "local":
                file.seek(0)
                with tarfile.open(fileobj=file) as archive:
                    archive.extractall(output.destination, members=_ordinary(archive), filter="data")
    except OSError as failed:
        raise UserError(f"{output.destination} cannot be written: {failed.strerror or failed}.") from failed
    finally:
        client.remove_container(created.id, force=True)


def _ordinary(archive: tarfile.TarFile) -> Sequence[tarfile.TarInfo]:
    """Links that lead out of the image, and devices, cannot be had as files of this computer."""
    return [member for member in archive.getmembers() if member.isreg() or member.isdir() or _stays(member)]


def _stays(member: tarfile.TarInfo) -> bool:
    return (member.issym() or member.islnk()) and not member.linkname.startswith("/")

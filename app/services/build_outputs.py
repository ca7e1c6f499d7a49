"""What a build is for besides an image in the engine: files, archives, images in a registry."""

import contextlib
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.engine.transport import Response

_FILES = ("local", "tar")
_ARCHIVES = ("docker", "oci")
_IMAGES = ("image", "registry")


@dataclass(frozen=True)
class OutputTo:
    """`-o`. local: files in a directory; tar: the same as an archive; docker and oci: an image's archive, both in one
    format that Docker and OCI tools read; image: in the engine only, pushed with `push`. `destination` "-" is
    standard output, "" nothing.
    """

    kind: str
    destination: str = ""
    push: bool = False
    names: tuple[str, ...] = ()


def parse_output(text: str) -> OutputTo:
    """`DIR`, `-`, or `type=KIND,dest=PATH`. Raises UserError."""
    if "=" not in text:
        return OutputTo("tar" if text == "-" else "local", text)
    values = dict(part.partition("=")[::2] for part in text.split(","))
    kind = values.pop("type", "")
    destination = values.pop("dest", values.pop("destination", ""))
    names = tuple(name for name in values.pop("name", "").strip('"').split(";") if name)
    push = values.pop("push", "false").lower() == "true" or kind == "registry"
    values.pop("rewrite-timestamp", "")  # with SOURCE_DATE_EPOCH the times of files are rewritten in any case
    if kind not in (*_FILES, *_ARCHIVES, *_IMAGES):
        raise UserError(
            f"-o {text}: {kind or 'nothing'} is no type.", f"There are {', '.join((*_FILES, *_ARCHIVES, *_IMAGES))}."
        )
    if values:
        raise UserError(f"-o {text}: {next(iter(values))} is not supported by this version of Wherry: leave it out.")
    if push and kind not in _IMAGES:
        raise UserError(f"-o {text}: only type=image and type=registry are pushed.")
    if kind == "local" and not destination:
        raise UserError(f"-o {text}: it needs dest=DIRECTORY.")
    if kind in ("tar", "oci"):
        destination = destination or "-"
    return OutputTo(kind, destination, push, names)


def write_output(client: EngineClient, image_id: str, tags: Sequence[str], output: OutputTo, stdout: Any) -> None:
    """Raises UserError, EngineError."""
    try:
        if output.kind in _FILES:
            _write_files(client, image_id, output, stdout)
        elif output.kind in _ARCHIVES and output.destination:
            _write(client.save_images(list(tags) or [image_id]), output.destination, stdout)
    except OSError as failed:
        raise UserError(f"{output.destination} cannot be written: {failed.strerror or failed}.") from failed


def _write(response: Response, destination: str, stdout: Any) -> None:
    try:
        with contextlib.nullcontext(stdout) if destination == "-" else Path(destination).open("wb") as file:
            while data := response.read_some():
                file.write(data)
    finally:
        response.close()


def _write_files(client: EngineClient, image_id: str, output: OutputTo, stdout: Any) -> None:
    created = client.create_container({"Image": image_id, "Cmd": ["-"]})
    try:
        if output.kind == "tar":
            _write(client.export_container(created.id), output.destination, stdout)
            return
        with tempfile.TemporaryFile() as file:
            _write(client.export_container(created.id), "-", file)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                archive.extractall(output.destination, members=_ordinary(archive), filter="data")
    finally:
        client.remove_container(created.id, force=True)


def _ordinary(archive: tarfile.TarFile) -> Sequence[tarfile.TarInfo]:
    """Links that lead out of the image, and devices, cannot be had as files of this computer."""
    return [member for member in archive.getmembers() if member.isreg() or member.isdir() or _stays(member)]


def _stays(member: tarfile.TarInfo) -> bool:
    return (member.issym() or member.islnk()) and not member.linkname.startswith("/")

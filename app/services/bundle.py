"""`wherry doctor --bundle FILE`: what somebody who helps needs to see, in one archive, without secrets."""

import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app import __version__
from app.core.errors import UserError
from app.core.paths import user_paths
from app.engine.client import EngineClient
from app.engine.errors import EngineError
from app.services.diagnostics import Check
from app.services.engines import EngineBackend
from app.services.secrets import masked

if TYPE_CHECKING:
    from vmbackend import MachineManager

# Of each log, the end.
_MAX_LOG_BYTES = 2 * 1024 * 1024
_LOG_PARTS: tuple[Literal["hostagent", "qemu", "serial"], ...] = ("hostagent", "qemu", "serial")


def write_bundle(
    target: Path, backend: EngineBackend, checks: Sequence[Check], machines: "Callable[[], MachineManager]"
) -> list[str]:
    """Write a zip archive for this user alone; the names of what is in it. Raises UserError."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    names = []
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in _contents(backend, checks, machines):
                archive.writestr(name, masked(text))
                names.append(name)
        draft.replace(target)
    except OSError as failure:
        raise UserError(f"The archive cannot be written to {target}: {failure.strerror or failure}.") from failure
    finally:
        draft.unlink(missing_ok=True)
    return names


def _contents(
    backend: EngineBackend, checks: Sequence[Check], machines: "Callable[[], MachineManager]"
) -> Iterator[tuple[str, str]]:
    versions = {
        "wherry": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    yield "versions.json", _json(versions)
    yield "checks.json", _json([_fields(check) for check in checks])
    yield "status.json", _json(_fields(backend.status()))
    yield "engine.json", _json(_engine(backend))
    yield from _logs("logs", sorted(user_paths().logs.glob("*.log*")))
    try:
        manager = machines()
        for name in manager.names():
            yield from _machine(manager, name)
    except OSError as failure:
        yield "machines.txt", f"{failure}\n"


def _engine(backend: EngineBackend) -> object:
    """Of containers only what says how they stand: a command or a label may be anybody's secret."""
    try:
        with EngineClient(backend.host()) as client:
            containers = [
                {"name": container.name, "image": container.image, "state": container.state, "status": container.status}
                for container in client.containers(all=True)
            ]
            return {"version": _fields(client.version()), "info": _fields(client.info()), "containers": containers}
    except EngineError as failure:
        return {"error": str(failure)}


def _machine(manager: "MachineManager", name: str) -> Iterator[tuple[str, str]]:
    from vmbackend import MachineError, setting_texts

    folder = f"machines/{name}"
    try:
        yield f"{folder}/status.json", _json(_fields(manager.status(name)))
        yield f"{folder}/settings.json", _json(setting_texts(manager.settings(name)))
    except MachineError as failure:
        yield f"{folder}/error.txt", f"{failure}\n"
    for part in _LOG_PARTS:
        yield from _logs(folder, manager.logs(name, part))


def _logs(folder: str, files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for file in files:
        try:
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - _MAX_LOG_BYTES))
                yield f"{folder}/{file.name}", stream.read().decode(errors="replace")
        except OSError as failure:
            yield f"{folder}/{file.name}", f"{failure}\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=_fields, ensure_ascii=False) + "\n"


def _fields(value: object) -> object:
    names = getattr(value, "__dataclass_fields__", None)
    return {name: getattr(value, name) for name in names} if names else str(value)

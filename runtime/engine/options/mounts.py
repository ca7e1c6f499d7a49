"""Mounts: `-v`, `--mount`, `--tmpfs`, `--volumes-from` and VOLUME. Sentences are Docker's (moby's volume/mounts)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from runtime.engine.options.model import Document, MountRequest
from runtime.engine.options.tmpfs import tmpfs_flag_options, tmpfs_mount_options
from runtime.errors import InvalidParameter, NotSupported

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")

# Words of `-v source:target:words`, by what they say; one of each group may stand there.
MODE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "access": ("rw", "ro"),
    "SELinux label": ("z", "Z"),  # accepted without effect, as on a host without SELinux
    "propagation": PROPAGATIONS,
    "copy": ("nocopy",),
    "consistency": ("consistent", "cached", "delegated"),  # accepted without effect, as on Linux
}


def mounts(config: Document, host: Document, image: Document) -> list[MountRequest]:
    """Every mount of a container but those of `--volumes-from`; what VOLUME declares gives way to the rest."""
    driver = host.get("VolumeDriver") or ""
    requests = [_bind(text, driver) for text in _list(host, "Binds")]
    requests += [_mount(document) for document in _list(host, "Mounts")]
    for target, options in (host.get("Tmpfs") or {}).items():
        requests.append(MountRequest("tmpfs", _target(target), options=tmpfs_flag_options(options), shown=False))
    by_target: dict[str, MountRequest] = {}
    for request in requests:
        if request.target in by_target:
            raise InvalidParameter(f"Duplicate mount point: {request.target}")
        by_target[request.target] = request
    for target in {**(image.get("Volumes") or {}), **(config.get("Volumes") or {})}:
        declared = MountRequest("volume", _target(target), driver=driver, declared=True)
        by_target.setdefault(declared.target, declared)
    return list(by_target.values())


def merged(own: Iterable[MountRequest], inherited: Iterable[MountRequest]) -> list[MountRequest]:
    """With the mounts of `--volumes-from`, in the order to mount them in: what is nearer to "/" first."""
    by_target = {request.target: request for request in own if request.declared}
    by_target |= {request.target: request for request in inherited}
    by_target |= {request.target: request for request in own if not request.declared}
    return [by_target[target] for target in sorted(by_target, key=lambda path: (path.count("/"), path))]


def volumes_from(host: Document) -> list[tuple[str, bool]]:
    """`--volumes-from container[:mode]`: which container, and whether read-only."""
    wanted = []
    for text in _list(host, "VolumesFrom"):
        if not isinstance(text, str) or not text:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        name, _, mode = text.partition(":")
        words = _mode_words(mode)
        if words is None or {"propagation", "copy"} & words.keys():
            raise InvalidParameter(f"invalid mode: {mode}")
        wanted.append((name, words.get("access") == "ro"))
    return wanted


def _list(host: Document, name: str) -> list[Any]:
    value = host.get(name) or []
    if not isinstance(value, list):
        raise InvalidParameter(f"invalid {name}: a list is needed")
    return value


# --- targets


def _target(path: str) -> str:
    if problem := _target_problem(path):
        raise InvalidParameter(problem)
    return _clean(path)


def _target_problem(path: str) -> str:
    if not path:
        return "field Target must not be empty"
    if "\0" in path:
        return "invalid mount path: it holds a NUL character"
    if _clean(path) == "/":
        return "invalid specification: destination can't be '/'"
    if not path.startswith("/"):
        return f"invalid mount path: '{path}' mount path must be absolute"
    return ""


def _clean(path: str) -> str:
    return str(PurePosixPath(normpath(path)))


# --- -v


def _mode_words(mode: str) -> dict[str, str] | None:
    """The words of a mode by group; None when it is no mode."""
    words: dict[str, str] = {}
    for word in mode.split(",") if mode else []:
        group = next((name for name, members in MODE_GROUPS.items() if word in members), None)
        if group is None or group in words:
            return None
        words[group] = word
    return words


def _bind(text: str, driver: str) -> MountRequest:
    """`source:target[:words]` of `-v`; one part is an anonymous volume's target."""
    if not isinstance(text, str):
        raise InvalidParameter("invalid Binds: a list of strings is needed")
    parts = text.split(":", 3)
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and _mode_words(parts[1]) is not None):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source = parts[0] if len(parts) > 1 else ""
    given_target = parts[1] if len(parts) > 1 else parts[0]
    mode = parts[2] if len(parts) == 3 else ""
    words = _mode_words(mode)
    if words is None:
        raise InvalidParameter(f"invalid mode: {mode}")
    kind = "bind" if source.startswith("/") else "volume"
    problem = _target_problem(given_target)
    if not problem and kind == "volume" and "propagation" in words:
        problem = "field BindOptions must not be specified"
    elif not problem and kind == "bind" and "copy" in words:
        problem = "field VolumeOptions must not be specified"
    elif not problem and kind == "volume" and not source and words.get("access") == "ro":
        problem = "must not set ReadOnly mode when using anonymous volumes"
    if problem:
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {problem}"
        )
    target, read_only = _clean(given_target), words.get("access") == "ro"
    if kind == "bind":
        propagation = words.get("propagation", "")
        return MountRequest("bind", target, _clean(source), read_only, mode, propagation, create_source=True)
    if source and not VOLUME_NAME.fullmatch(source):
        raise InvalidParameter(_bad_volume_name(source))
    return MountRequest("volume", target, source, read_only, mode or "z", no_copy="copy" in words, driver=driver)


def _bad_volume_name(name: str) -> str:
    if len(name) == 1 and name.isalnum():
        return f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
    return (
        f'create {name}: "{name}" includes invalid characters for a local volume name, only '
        '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
    )


# --- --mount


def _mount(document: Document) -> MountRequest:
    if not isinstance(document, dict):
        raise InvalidParameter("invalid Mounts: a list of objects is needed")
    kind = document.get("Type") or ""
    read = _KINDS.get(kind)
    if read is None:
        if kind in ("npipe", "cluster"):
            where = "Windows containers" if kind == "npipe" else "swarm services"
            raise NotSupported(f"--mount type={kind} is not supported: it is for {where}")
        raise InvalidParameter(f'invalid mount config for type "{kind}": mount type unknown')
    try:
        target = _target(document.get("Target") or "")
        for name, kinds in _OPTIONS_OF.items():
            if kind not in kinds and document.get(name):
                raise InvalidParameter(f"field {name} must not be specified")
        return read(document, target)
    except InvalidParameter as error:
        raise InvalidParameter(f'invalid mount config for type "{kind}": {error}') from None


# Which kinds of mount take which options.
_OPTIONS_OF: Mapping[str, tuple[str, ...]] = {
    "BindOptions": ("bind",),
    "VolumeOptions": ("volume",),
    "TmpfsOptions": ("tmpfs",),
    "ImageOptions": ("image",),
    "ClusterOptions": (),
}


def _bind_mount(document: Document, target: str) -> MountRequest:
    source = document.get("Source") or ""
    bind = document.get("BindOptions") or {}
    propagation = bind.get("Propagation") or ""
    if not source:
        raise InvalidParameter("field Source must not be empty")
    if propagation and propagation not in PROPAGATIONS:
        raise InvalidParameter(f"invalid propagation mode: {propagation}")
    if not source.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{source}' mount path must be absolute")
    if bind.get("ReadOnlyNonRecursive") and bind.get("ReadOnlyForceRecursive"):
        raise InvalidParameter("ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive")
    return MountRequest(
        "bind",
        target,
        _clean(source),
        bool(document.get("ReadOnly")),
        propagation=propagation,
        create_source=bool(bind.get("CreateMountpoint")),
        recursive=not bind.get("NonRecursive"),
        read_only_below=(
            "always"
            if bind.get("ReadOnlyForceRecursive")
            else "never"
            if bind.get("ReadOnlyNonRecursive")
            else "if possible"
        ),
    )


def _volume_mount(document: Document, target: str) -> MountRequest:
    source, read_only = document.get("Source") or "", bool(document.get("ReadOnly"))
    volume = document.get("VolumeOptions") or {}
    driver = volume.get("DriverConfig") or {}
    subpath = volume.get("Subpath") or ""
    if subpath and not source:
        raise InvalidParameter("must not set Subpath when using anonymous volumes")
    if read_only and not source:
        raise InvalidParameter("must not set ReadOnly mode when using anonymous volumes")
    if source and not VOLUME_NAME.fullmatch(source):
        raise InvalidParameter(_bad_volume_name(source))
    return MountRequest(
        "volume",
        target,
        source,
        read_only,
        "z",
        subpath=_subpath(subpath),
        no_copy=bool(volume.get("NoCopy")),
        driver=driver.get("Name") or "",
        driver_options=dict(driver.get("Options") or {}),
        labels=dict(volume.get("Labels") or {}),
    )


def _subpath(path: str) -> str:
    """As Go's filepath.IsLocal has it: below where it starts, however it gets there."""
    if not path:
        return ""
    normal = normpath(path)
    if path.startswith("/") or "\0" in path or normal == ".." or normal.startswith("../"):
        raise InvalidParameter("subpath must be a relative path within the volume")
    return "" if normal == "." else normal


def _tmpfs_mount(document: Document, target: str) -> MountRequest:
    if document.get("Source"):
        raise InvalidParameter("field Source must not be specified")
    options = tmpfs_mount_options(document.get("TmpfsOptions") or {}, bool(document.get("ReadOnly")))
    return MountRequest("tmpfs", target, read_only=bool(document.get("ReadOnly")), options=options)


def _image_mount(document: Document, target: str) -> MountRequest:
    source = document.get("Source") or ""
    if not source:
        raise InvalidParameter("field Source must not be empty")
    subpath = (document.get("ImageOptions") or {}).get("Subpath") or ""
    return MountRequest("image", target, source, True, subpath=_subpath(subpath))


_KINDS: Mapping[str, Callable[[Document, str], MountRequest]] = {
    "bind": _bind_mount,
    "volume": _volume_mount,
    "tmpfs": _tmpfs_mount,
    "image": _image_mount,
}


def anonymous_volume_name() -> str:
    return uuid.uuid4().hex + uuid.uuid4().hex

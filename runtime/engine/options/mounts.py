"""Mounts: `-v`, `--mount`, `--tmpfs` and VOLUME."""

from __future__ import annotations

import re
import uuid
from pathlib import PurePosixPath

from runtime.engine.options.model import Document, MountRequest
from runtime.errors import InvalidParameter, NotSupported


def mounts(config: Document, host: Document, image: Document) -> list[MountRequest]:
    """Every mount by its target: `-v` and `--mount` first, then tmpfs, then the image's volumes."""
    requests = [_bind(text) for text in host.get("Binds") or []]
    requests += [_mount(document) for document in host.get("Mounts") or []]
    for target, options in (host.get("Tmpfs") or {}).items():
        requests.append(MountRequest("tmpfs", _target(target), options=_tmpfs_options(options)))
    by_target: dict[str, MountRequest] = {}
    for request in requests:
        if request.target in by_target:
            raise InvalidParameter(f"Duplicate mount point: {request.target}")
        by_target[request.target] = request
    for target in {**(image.get("Volumes") or {}), **(config.get("Volumes") or {})}:
        by_target.setdefault(_target(target), MountRequest("volume", _target(target)))
    return [by_target[target] for target in sorted(by_target, key=lambda path: path.count("/"))]


def _target(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    normal = str(PurePosixPath(path))
    if normal == "/" or ".." in PurePosixPath(path).parts:
        raise InvalidParameter(f"invalid mount path: '{path}': destination can't be '/' and can't hold '..'")
    return normal


VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def _bind(text: str) -> MountRequest:
    """`source:target[:modes]` of `-v`; one part is an anonymous volume's target."""
    parts = text.split(":")
    if len(parts) == 1:
        return MountRequest("volume", _target(parts[0]))
    if len(parts) > 3 or not parts[0] or not parts[1]:
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source, target = parts[0], _target(parts[1])
    read_only, propagation, no_copy = False, "rprivate", False
    for mode in filter(None, parts[2].split(",") if len(parts) == 3 else []):
        if mode in ("ro", "readonly"):
            read_only = True
        elif mode in PROPAGATIONS:
            propagation = mode
        elif mode == "nocopy":
            no_copy = True
        elif mode not in ("rw", "z", "Z", "cached", "delegated", "consistent"):
            raise InvalidParameter(f"invalid mode: {mode} in volume specification '{text}'")
    if source.startswith("/"):
        return MountRequest("bind", target, source, read_only, propagation, create_source=True)
    if not VOLUME_NAME.fullmatch(source):
        raise InvalidParameter(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return MountRequest("volume", target, source, read_only, no_copy=no_copy)


def _mount(document: Document) -> MountRequest:
    kind, target = document.get("Type"), _target(document.get("Target") or "")
    source, read_only = document.get("Source") or "", bool(document.get("ReadOnly"))
    if kind == "bind":
        if not source.startswith("/"):
            raise InvalidParameter(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        bind = document.get("BindOptions") or {}
        return MountRequest(
            "bind",
            target,
            source,
            read_only,
            bind.get("Propagation") or "rprivate",
            create_source=bool(bind.get("CreateMountpoint")),
        )
    if kind == "volume":
        volume = document.get("VolumeOptions") or {}
        if volume.get("Subpath") or (volume.get("DriverConfig") or {}).get("Options"):
            raise NotSupported("volume options in --mount are not supported by this version of Wherry")
        return MountRequest("volume", target, source, read_only, no_copy=bool(volume.get("NoCopy")))
    if kind == "tmpfs":
        options = document.get("TmpfsOptions") or {}
        words = [f"size={options['SizeBytes']}"] if options.get("SizeBytes") else []
        words += [f"mode={options['Mode']:o}"] if options.get("Mode") else []
        return MountRequest("tmpfs", target, options=_tmpfs_options(",".join(words)))
    raise NotSupported(f"--mount type={kind} is not supported by this version of Wherry: use bind, volume or tmpfs")


TMPFS_OPTIONS = re.compile(
    r"(ro|rw|exec|noexec|suid|nosuid|dev|nodev|(no|rel)?atime|size=\d+[kKmMgG%]?|mode=[0-7]+|uid=\d+|gid=\d+"
    r"|nr_inodes=\d+[kKmMgG]?)"
)


def _tmpfs_options(text: str) -> tuple[str, ...]:
    """Docker's defaults (noexec,nosuid,nodev) with the request's options behind them."""
    options = [option for option in text.split(",") if option]
    for option in options:
        if not TMPFS_OPTIONS.fullmatch(option):
            raise InvalidParameter(f'invalid tmpfs option ["{option}"]')
    return ("noexec", "nosuid", "nodev", *options)


def anonymous_volume_name() -> str:
    return uuid.uuid4().hex + uuid.uuid4().hex

"""Device nodes of this host, as OCI devices and device rules."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from runtime.engine.options import DeviceMapping
from runtime.errors import SystemFault

Node = dict[str, Any]
EVERYTHING: dict[str, Any] = {"allow": True, "access": "rwm"}
# Each container has its own of these (runc devices.GetDevices).
_OWN_DIRECTORIES = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"))
_OWN_NODES = frozenset(("/dev/console", "/dev/ptmx"))


def node(path: str, at: str = "") -> Node | None:
    """The OCI device for the device node `path`, to be `at` in the container; None if it is no device."""
    info = os.lstat(path)
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        return None
    return {
        "path": at or path,
        "type": "c" if stat.S_ISCHR(info.st_mode) else "b",
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def rule(device: Node, access: str) -> dict[str, Any]:
    """The rule that lets `device` be used."""
    return {"allow": True, **{key: device[key] for key in ("type", "major", "minor")}, "access": access}


def host_devices() -> list[Node]:
    """Every device in /dev, for a privileged container."""
    return [found for path in _files("/dev") if path not in _OWN_NODES and (found := _node_or_none(path))]


def mapped(mapping: DeviceMapping) -> list[Node]:
    """The node a `--device` names, or all below the directory it names.

    Raises SystemFault if there is none, as Docker does at start.
    """
    path = os.path.realpath(mapping.on_host) if os.path.islink(mapping.on_host) else mapping.on_host
    problem = "not a device node"
    try:
        if found := node(path, mapping.in_container):
            return [found]
        if os.path.isdir(path):
            below = [
                entry
                for file in _files(path)
                if (entry := _node_or_none(file, mapping.in_container.rstrip("/") + file[len(path) :]))
            ]
            if below:
                return below
    except OSError as error:
        problem = (error.strerror or "").lower()
    raise SystemFault(f'error gathering device information while adding custom device "{mapping.on_host}": {problem}')


def for_container(
    mappings: Iterable[DeviceMapping], rules: Iterable[dict[str, Any]], privileged: bool
) -> tuple[list[Node], list[dict[str, Any]]]:
    """The nodes to make and the rules to add; a later node replaces an earlier one at the same path."""
    nodes: dict[str, Node] = {}
    allowed: list[dict[str, Any]] = []
    if privileged:
        nodes = {found["path"]: found for found in host_devices()}
        mappings = [mapping for mapping in mappings if mapping.on_host != mapping.in_container]
    for mapping in mappings:
        for found in mapped(mapping):
            nodes[found["path"]] = found
            allowed.append(rule(found, mapping.access))
    return list(nodes.values()), [EVERYTHING] if privileged else [*allowed, *rules]


def _files(directory: str) -> Iterator[str]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if not entry.is_dir(follow_symlinks=False):
            yield entry.path
        elif entry.name not in _OWN_DIRECTORIES:
            yield from _files(entry.path)


def _node_or_none(path: str, at: str = "") -> Node | None:
    try:
        return node(path, at)
    except OSError:  # gone meanwhile
        return None

"""Container Device Interface: devices by the names vendors describe them under, `vendor.com/class=name`.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md, versions 0.3 to 1.0. Specs in YAML are read
where PyYAML is installed, which is not among our dependencies.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.engine import devices
from runtime.engine.options import DeviceRequest
from runtime.errors import SystemFault

GPU_KIND = "nvidia.com/gpu"

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
_VERSION = re.compile(r"(0\.[3-9]|1\.0)\.\d+")
_HOOKS = ("createContainer", "startContainer")
_REFUSED_EDITS = {"intelRdt": "Intel RDT", "netDevices": "network devices"}


class _Problem(Exception):
    """Why devices cannot be injected."""


@dataclass
class Device:
    """One device: its edits behind those of the spec file it is in."""

    spec_path: Path
    shared: dict[str, Any]
    edits: dict[str, Any]


@dataclass
class Registry:
    """What the spec files of the moment describe; a directory later in the list goes before an earlier one."""

    devices: dict[str, Device] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)  # a sentence each

    @classmethod
    def read(cls, directories: Sequence[Path]) -> Registry:
        registry = cls()
        for directory in directories:
            found: dict[str, Device] = {}
            twice: set[str] = set()
            for path in _spec_files(directory):
                try:
                    described = dict(_devices_of(path, _document(path)))
                except (OSError, ValueError, KeyError, TypeError, AttributeError, _Problem) as error:
                    registry.unread.append(f"{path} cannot be used: {error}")
                    continue
                twice |= described.keys() & found.keys()
                found |= described
            for name in twice:
                registry.unread.append(f"{name} is described by two files of {directory}")
                del found[name]
            registry.devices |= found
        return registry


def _document(path: Path) -> Any:
    """Raises ValueError for what is neither JSON nor YAML."""
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        remedy = "install PyYAML (on Debian: apt install python3-yaml), or convert it to JSON"
        raise _Problem(f"it is YAML: {remedy}") from None
    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None


def _spec_files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in (".json", ".yaml", ".yml"))
    except OSError:
        return []


def _devices_of(path: Path, document: dict[str, Any]) -> Iterator[tuple[str, Device]]:
    version, kind = str(document["cdiVersion"]), str(document["kind"])
    if not _VERSION.fullmatch(version.removeprefix("v")):
        raise _Problem(f"its version {version} is none from 0.3.0 to 1.0.0")
    if not _KIND.fullmatch(kind):
        raise _Problem(f"its kind {kind!r} is not like vendor.com/class")
    for device in document["devices"]:
        name = str(device["name"])
        if not _NAME.fullmatch(name):
            raise _Problem(f"{name!r} is no name for a device")
        yield f"{kind}={name}", Device(path, document.get("containerEdits") or {}, device.get("containerEdits") or {})


# --- what a container asks for


def inject(spec: dict[str, Any], requests: Iterable[DeviceRequest], directories: Sequence[Path]) -> None:
    """Change the OCI `spec` for these requests; raises SystemFault in Docker's words."""
    requests = list(requests)
    if not requests:
        return
    registry = Registry.read(directories)
    names = [name for request in requests for name in _names(request, registry)]
    try:
        _inject(spec, names, registry)
    except _Problem as problem:
        raise SystemFault(f"CDI device injection failed: {problem}") from None


def _names(request: DeviceRequest, registry: Registry) -> list[str]:
    """The CDI names a request stands for; `--gpus` is served by NVIDIA's spec, when there is one."""
    if request.driver == "cdi":
        return list(request.ids)
    wants_gpu = any("gpu" in alternative for alternative in request.capabilities)
    if request.driver in ("", "nvidia") and wants_gpu and any(name.startswith(GPU_KIND) for name in registry.devices):
        if request.ids:
            return [f"{GPU_KIND}={id}" for id in request.ids]
        return [f"{GPU_KIND}=all"] if request.count < 0 else [f"{GPU_KIND}={n}" for n in range(request.count)]
    shown = " ".join(f"[{' '.join(alternative)}]" for alternative in request.capabilities)
    raise SystemFault(f'could not select device driver "{request.driver}" with capabilities: [{shown}]')


def _inject(spec: dict[str, Any], names: list[str], registry: Registry) -> None:
    if unresolvable := [name for name in names if name not in registry.devices]:
        hint = f" ({'; '.join(registry.unread)})" if registry.unread else ""
        raise _Problem(f"unresolvable CDI devices {', '.join(unresolvable)}{hint}")
    shared: set[Path] = set()
    for name in names:
        device = registry.devices[name]
        if device.spec_path not in shared:
            shared.add(device.spec_path)
            _edit(spec, device.shared)
        _edit(spec, device.edits)


def _edit(spec: dict[str, Any], edits: dict[str, Any]) -> None:
    """Apply one containerEdits object."""
    for name, words in _REFUSED_EDITS.items():
        if edits.get(name):
            raise _Problem(f"containerEdits.{name}: {words} are not supported by Wherry")
    process, linux = spec["process"], spec["linux"]
    for entry in edits.get("env") or ():
        prefix = entry.partition("=")[0] + "="
        process["env"] = [other for other in process["env"] if not other.startswith(prefix)] + [entry]
    for described in edits.get("deviceNodes") or ():
        node = _node(described, process["user"])
        linux["devices"] = [other for other in linux["devices"] if other["path"] != node["path"]] + [node]
        if node["type"] in ("b", "c"):
            linux["resources"]["devices"].append(devices.rule(node, described.get("permissions") or "rwm"))
    for mount in edits.get("mounts") or ():
        spec["mounts"] = [other for other in spec["mounts"] if other["destination"] != mount["containerPath"]]
        spec["mounts"].append(_mount(mount))
    for hook in edits.get("hooks") or ():
        if hook["hookName"] not in _HOOKS:
            kind = hook["hookName"]
            raise _Problem(f"hooks of kind {kind} are not supported by Wherry: it runs {' and '.join(_HOOKS)}")
        kept = {key: hook[key] for key in ("path", "args", "env", "timeout") if hook.get(key)}
        spec.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(kept)
    user = process["user"]
    extra = [gid for gid in edits.get("additionalGids") or () if gid]
    user["additionalGids"] = list(dict.fromkeys([*user.get("additionalGids", ()), *extra]))


def _node(described: dict[str, Any], user: dict[str, Any]) -> dict[str, Any]:
    path = described["path"]
    node = {"path": path, "uid": user["uid"], "gid": user["gid"]}
    for key in ("type", "major", "minor", "fileMode", "uid", "gid"):
        if described.get(key) is not None:
            node[key] = described[key]
    if not {"type", "major", "minor"} <= node.keys():
        on_host = described.get("hostPath") or path
        try:
            found = devices.node(on_host)
        except OSError as error:
            raise _Problem(f'failed to stat CDI host device "{on_host}": {(error.strerror or "").lower()}') from None
        if found is None and not stat.S_ISFIFO(os.lstat(on_host).st_mode):
            raise _Problem(f'failed to stat CDI host device "{on_host}": not a device node')
        node = {**{k: v for k, v in (found or {"type": "p"}).items() if k not in ("path", "uid", "gid")}, **node}
    return node


def _mount(described: dict[str, Any]) -> dict[str, Any]:
    options = list(described.get("options") or ())
    kind = described.get("type") or "bind"
    if kind == "bind" and not {"bind", "rbind"} & set(options):
        options.append("bind")
    return {
        "destination": described["containerPath"],
        "source": described["hostPath"],
        "type": kind,
        "options": options,
    }

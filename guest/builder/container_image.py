"""The container image shipped with Wherry: Alpine's mini root file system as a docker-archive.

Layout of the archive: ``manifest.json`` (one image, its RepoTags), ``<config digest>.json`` (OCI image
configuration) and one uncompressed layer ``<digest>/layer.tar``. Every name, owner, mode and time stamp follows
from the pinned parts, so the same parts give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from guest.builder.alpine import Userland
from guest.builder.arch import Architecture


def write_container_image(userland: Userland, arch: Architecture, output: Path) -> None:
    """Write the image as ``alpine:<x.y>`` and ``alpine:latest`` to ``output``, replacing it at once."""
    layer = _layer(userland)
    layer_hex = hashlib.sha256(layer).hexdigest()
    config = _canonical(_image_config(userland, arch, layer_hex))
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    minor_release = ".".join(userland.release.split(".")[:2])
    manifest = _canonical(
        [
            {
                "Config": config_name,
                "RepoTags": [f"alpine:{minor_release}", "alpine:latest"],
                "Layers": [f"{layer_hex}/layer.tar"],
            }
        ]
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in (
            (config_name, config),
            (f"{layer_hex}/layer.tar", layer),
            ("manifest.json", manifest),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = userland.built_at
            archive.addfile(member, io.BytesIO(content))
    unfinished.replace(output)


def _image_config(userland: Userland, arch: Architecture, layer_hex: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(userland.built_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config: dict[str, Any] = {
        "created": created,
        "architecture": arch.oci,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/bin/sh"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_hex}"]},
        "history": [{"created": created, "created_by": f"Alpine {userland.release} packages"}],
    }
    if arch.oci == "arm64":
        config["variant"] = "v8"
    return config


def _layer(userland: Userland) -> bytes:
    """The root file system as a tar, in path order, owners and modes from apk's database."""
    stated = {entry.path: entry for entry in userland.entries}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(userland.root.rglob("*")):
            name = path.relative_to(userland.root).as_posix()
            member = archive.gettarinfo(path, arcname=name)
            entry = stated.get(name)
            member.uid = entry.uid if entry else 0
            member.gid = entry.gid if entry else 0
            member.uname = member.gname = ""
            member.mtime = userland.built_at
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
    return buffer.getvalue()


def _canonical(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

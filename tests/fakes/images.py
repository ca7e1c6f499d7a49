"""Images made from nothing but this machine's static busybox, for every tier that needs something to run.

Everything is written in the formats `docker save` and `skopeo copy oci-archive:` write, so that what
loads these archives loads the real ones too.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import zstandard

BUSYBOX = Path("/bin/busybox")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = b"""\
root:x:0:
daemon:x:1:
adm:x:4:root
wheel:x:10:root
www-data:x:33:
nogroup:x:65534:
"""

Entry = tuple[tarfile.TarInfo, bytes]


def directory(name: str, mode: int = 0o755, **attributes: Any) -> Entry:
    return _entry(name, tarfile.DIRTYPE, mode, b"", attributes)


def file(name: str, data: bytes = b"", mode: int = 0o644, **attributes: Any) -> Entry:
    return _entry(name, tarfile.REGTYPE, mode, data, attributes)


def symlink(name: str, target: str, **attributes: Any) -> Entry:
    return _entry(name, tarfile.SYMTYPE, 0o777, b"", {"linkname": target, **attributes})


def hard_link(name: str, target: str, **attributes: Any) -> Entry:
    return _entry(name, tarfile.LNKTYPE, 0o644, b"", {"linkname": target, **attributes})


def device(name: str, major: int, minor: int, mode: int = 0o600, **attributes: Any) -> Entry:
    numbers = {"devmajor": major, "devminor": minor}
    return _entry(name, tarfile.CHRTYPE, mode, b"", {**numbers, **attributes})


def _entry(name: str, kind: bytes, mode: int, data: bytes, attributes: Mapping[str, Any]) -> Entry:
    """`attributes` are those of `tarfile.TarInfo`: uid, gid, mtime, pax_headers..."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, len(data)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


def tar_of(entries: Iterable[Entry]) -> bytes:
    """An uncompressed tar of exactly these entries, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1, mtime=0)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def host_architecture() -> str:
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


def image_config(layers: Sequence[bytes], config: Mapping[str, object], architecture: str = "") -> bytes:
    """The image configuration for these uncompressed layers. `config` is its inner part: Cmd, Env, User..."""
    document = {
        "created": "2024-01-02T03:04:05Z",
        "architecture": architecture or host_architecture(),
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "tests"} for _ in layers],
    }
    return json.dumps(document).encode()


def docker_archive(
    path: Path,
    layers: Sequence[bytes],
    references: Sequence[str],
    config: Mapping[str, object] | None = None,
    compress: Callable[[bytes], bytes] = bytes,
) -> Path:
    """Writes one image as `docker save` (before 25) does: config, layers and a manifest.json."""
    configuration = image_config(layers, config or {})
    entries = [file(sha256(configuration)[7:] + ".json", configuration)]
    names = []
    for layer in layers:
        names.append(f"{sha256(layer)[7:]}/layer.tar")
        entries.append(file(names[-1], compress(layer)))
    manifest = [{"Config": entries[0][0].name, "RepoTags": list(references), "Layers": names}]
    entries.append(file("manifest.json", json.dumps(manifest).encode()))
    path.write_bytes(tar_of(entries))
    return path


def oci_archive(
    path: Path,
    layers: Sequence[bytes],
    references: Sequence[str],
    config: Mapping[str, object] | None = None,
    architectures: Sequence[str] = ("",),
) -> Path:
    """Writes an OCI image layout tar with gzip layers; more than one architecture makes a nested index.

    `references` are full names ("docker.io/library/busybox:latest").
    """
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        blobs[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    manifests = []
    for architecture in architectures:
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(image_config(layers, config or {}, architecture), "application/vnd.oci.image.config.v1+json"),
            "layers": [put(gzipped(layer), "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers],
        }
        descriptor = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        descriptor["platform"] = {"architecture": architecture or host_architecture(), "os": "linux"}
        manifests.append(descriptor)
    top = manifests[0]
    if len(manifests) > 1:
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        }
        top = put(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
    named = [{**top, "annotations": {"io.containerd.image.name": name}} for name in references] or [top]
    entries = [file(f"blobs/sha256/{digest[7:]}", data) for digest, data in blobs.items()]
    entries.append(file("index.json", json.dumps({"schemaVersion": 2, "manifests": named}).encode()))
    entries.append(file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'))
    path.write_bytes(tar_of(entries))
    return path


def busybox_rootfs(extra: Iterable[Entry] = ()) -> list[Entry]:
    """A root file system: busybox with every applet as a symlink, the usual directories, passwd and group."""
    entries = [
        directory("./"),
        *(directory(name) for name in ("bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var")),
        directory("root", 0o700),
        directory("tmp", 0o1777),
        file("bin/busybox", BUSYBOX.read_bytes(), 0o755),
        *(symlink(f"bin/{applet}", "busybox") for applet in _applets() if applet != "busybox"),
        symlink("usr/bin/env", "/bin/busybox"),
        file("etc/passwd", PASSWD),
        file("etc/group", GROUP),
        file("etc/hostname", b"busybox\n"),
    ]
    return [*entries, *extra]


@cache
def _applets() -> tuple[str, ...]:
    listing = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    return tuple(listing.stdout.split())


def busybox_image_tar(
    path: Path,
    reference: str = "busybox:latest",
    cmd: Sequence[str] = ("sh",),
    config: Mapping[str, object] | None = None,
    extra: Iterable[Entry] = (),
) -> Path:
    """A docker-archive at `path` with a runnable busybox.

    `config` adds to (or replaces) the image's Cmd and Env, `extra` adds to its files.
    """
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    settings = {"Cmd": list(cmd), "Env": environment, **(config or {})}
    return docker_archive(path, [tar_of(busybox_rootfs(extra))], [reference], settings)

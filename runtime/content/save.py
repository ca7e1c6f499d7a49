"""Images into one archive that readers of docker-archives and of OCI layouts both accept, as Docker >= 25 does.

blobs/sha256/<hex>   manifests, configurations and layers, byte for byte as stored
index.json, oci-layout            read by OCI tools
manifest.json, repositories       read by `docker load` and podman
"""

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.content.archive import Writable
from runtime.content.documents import encode
from runtime.content.image import Image
from runtime.content.layout import LAYOUT_FILE
from runtime.content.tar_reader import BLOCK
from runtime.oci import digest
from runtime.oci.image import (
    ANNOTATION_IMAGE_NAME,
    ANNOTATION_PARENT,
    ANNOTATION_REF_NAME,
    ANNOTATION_REMOVED,
    ANNOTATION_TAGGED_AT,
    INDEX,
    Descriptor,
    Index,
)
from runtime.oci.reference import Reference

_CHUNK_BYTES = 1 << 20


def index_of(images: Sequence[tuple[Image, Sequence[Reference]]], *, own: bool = False) -> Index:
    """An OCI index with one descriptor for each reference, annotated as containerd and Docker do.

    `own`: of the store itself, with what is of this machine only.
    """
    manifests = []
    for image, references in images:
        ours = _own_annotations(image, bool(references)) if own else {}
        for reference in references:
            annotations = {ANNOTATION_IMAGE_NAME: str(reference)}
            if reference.tag:
                annotations[ANNOTATION_REF_NAME] = reference.tag
            manifests.append(Descriptor(**image.manifest, annotations={**annotations, **ours}))
        if not references:
            manifests.append(Descriptor(**image.manifest, annotations=ours) if ours else image.manifest)
    return Index(schemaVersion=2, mediaType=INDEX, manifests=manifests)


def _own_annotations(image: Image, named: bool) -> dict[str, str]:
    found = {
        ANNOTATION_TAGGED_AT: image.tagged_at if named else "",
        ANNOTATION_PARENT: image.parent,
        ANNOTATION_REMOVED: "true" if image.removed else "",
    }
    return {name: value for name, value in found.items() if value}


def write_archive(
    images: Sequence[tuple[Image, Sequence[Reference]]], blob_path: Callable[[str], Path], out: Writable
) -> None:
    """Writes `images`, each under the references given with it, as an uncompressed tar."""
    for directory in ("blobs/", "blobs/sha256/"):
        _write_header(out, directory, tarfile.DIRTYPE, 0)
    for blob in sorted({blob for image, _ in images for blob in image.blobs}):
        _write_file(out, _name_of(blob), blob_path(blob))
    documents = {
        "index.json": encode(index_of(images)),
        "manifest.json": encode([_docker_item(image, references) for image, references in images]),
        "oci-layout": LAYOUT_FILE,
        "repositories": encode(_repositories(images)),
    }
    for name, data in documents.items():
        _write_header(out, name, tarfile.REGTYPE, len(data))
        out.write(data + bytes(-len(data) % BLOCK))
    out.write(bytes(2 * BLOCK))


def _docker_item(image: Image, references: Sequence[Reference]) -> dict[str, object]:
    return {
        "Config": _name_of(image.id),
        "RepoTags": [reference.familiar() for reference in references if reference.tag] or None,
        "Layers": [_name_of(layer["digest"]) for layer in image.layers],
    }


def _repositories(images: Sequence[tuple[Image, Sequence[Reference]]]) -> dict[str, dict[str, str]]:
    """Repository and tag to the topmost layer: the table before manifest.json, which a few readers want."""
    repositories: dict[str, dict[str, str]] = {}
    for image, references in images:
        for reference in references:
            if reference.tag and image.layers:
                top = digest.hex_of(image.layers[-1]["digest"])
                repositories.setdefault(reference.familiar_name(), {})[reference.tag] = top
    return repositories


def _name_of(blob: str) -> str:
    return f"blobs/{digest.ALGORITHM}/{digest.hex_of(blob)}"


def _write_file(out: Writable, name: str, path: Path) -> None:
    with path.open("rb") as file:
        size = path.stat().st_size
        _write_header(out, name, tarfile.REGTYPE, size)
        while chunk := file.read(_CHUNK_BYTES):
            out.write(chunk)
    out.write(bytes(-size % BLOCK))


def _write_header(out: Writable, name: str, kind: bytes, size: int) -> None:
    """Owner root, time zero: the same images give the same archive."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    out.write(info.tobuf(tarfile.USTAR_FORMAT))

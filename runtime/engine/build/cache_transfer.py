"""The build cache to and from a registry, and as an OCI layout that a client keeps in a directory. All blocks."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

from runtime.content.archive import Writable
from runtime.content.compression import Readable, decompressed
from runtime.content.documents import descriptor_of, encode, parse_index, parse_manifest
from runtime.content.ingest import Ingest, NewLayer
from runtime.content.layout import LAYOUT_FILE
from runtime.engine.build.cache import CacheEntry
from runtime.engine.build.cache_documents import ImportedSteps, Step, manifest_of
from runtime.engine.build.context import Context
from runtime.errors import InvalidParameter, NotFound
from runtime.oci import digest
from runtime.oci.image import INDEX, LAYER_TAR, MANIFEST, Descriptor, Index
from runtime.oci.reference import Reference

if TYPE_CHECKING:
    from runtime.registry.client import Repository
    from runtime.registry.hosts import RegistrySettings
    from runtime.registry.transport import Credentials

_CHUNK_BYTES = 1 << 20


class Origin(Protocol):
    """Where an exported cache is read from."""

    def open(self, blob: Descriptor) -> Readable:
        """Raises WherryError, OSError."""


class ImportedCache:
    def __init__(self, steps: ImportedSteps, origin: Origin) -> None:
        self.steps = steps
        self._origin = origin

    def layer(self, step: Step, below: Sequence[str], ingest: Ingest) -> NewLayer | None:
        """The step's layer on top of chain IDs, fetched if it is not here. Raises WherryError, OSError."""
        if step.layer is None:
            return None
        if not ingest.has_blob(step.diff_id):
            plain, _ = decompressed(self._origin.open(step.layer))
            ingest.add_blob(plain, step.diff_id)
        size_bytes = ingest.blob_size(step.diff_id)
        plain_layer = Descriptor(mediaType=LAYER_TAR, digest=step.diff_id, size=size_bytes)
        return ingest.layer_on(below, NewLayer("", step.diff_id, plain_layer))


# --- registries


class _InRegistry:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def open(self, blob: Descriptor) -> Readable:
        from runtime.registry.cancellation import Cancellation
        from runtime.registry.client import BlobReader

        def ignore(number: float) -> None:
            return None

        return BlobReader(self._repository, blob["digest"], blob["size"], Cancellation(), ignore, ignore)


@contextmanager
def repository_of(
    reference: Reference, credentials: Credentials, settings: RegistrySettings, pushing: bool = False
) -> Iterator[Repository]:
    from runtime.registry.cancellation import Cancellation
    from runtime.registry.client import Repository  # with it comes requests, which is large

    with Repository(reference, credentials, settings, Cancellation(), pushing=pushing) as repository:
        yield repository


def from_registry(repository: Repository, reference: Reference) -> ImportedCache:
    """Raises RegistryError, InvalidParameter."""
    fetched = repository.manifest(reference.digest or reference.tag or "latest")
    manifest = parse_manifest(fetched.data)
    config = repository.document(manifest["config"]["digest"], manifest["config"]["size"])
    return ImportedCache(ImportedSteps(manifest, config), _InRegistry(repository))


def to_registry(repository: Repository, reference: Reference, steps: Mapping[str, CacheEntry], ingest: Ingest) -> None:
    """Raises RegistryError, OSError."""
    manifest, config = manifest_of(steps, _compressed(steps, ingest))
    for blob in parse_manifest(manifest)["layers"]:
        if not repository.has_blob(blob["digest"]):
            with ingest.open_blob(blob["digest"]) as file:
                _upload(repository, blob["digest"], blob["size"], file)
    _upload(repository, digest.of_bytes(config), len(config), io.BytesIO(config))
    repository.put_manifest(reference.tag or "latest", manifest)


def _upload(repository: Repository, blob: str, size_bytes: int, file: io.BufferedIOBase | object) -> None:
    repository.retrying(
        lambda: repository.upload(repository.begin_upload(), blob, size_bytes, file, lambda count: None)  # type: ignore[arg-type]
    )


def _compressed(steps: Mapping[str, CacheEntry], ingest: Ingest) -> dict[str, Descriptor]:
    """The layers of steps as gzip blobs, by diff ID."""
    diff_ids = {entry.layer["digest"]: None for entry in steps.values() if entry.layer}
    return {diff_id: ingest.compress(diff_id) for diff_id in diff_ids}


# --- OCI layouts


class _InContext:
    """An OCI layout below a directory of the build's context."""

    def __init__(self, context: Context, top: str) -> None:
        self._context = context
        self._top = top

    def read(self, path: str) -> bytes:
        return self._context.read(self._context.files[self._context.resolve(f"{self._top}/{path}")])

    def document(self, blob: Descriptor) -> bytes:
        data = self.read(_path_of(blob["digest"]))
        if digest.of_bytes(data) != blob["digest"]:
            raise InvalidParameter(f"the exported build cache's {blob['digest']} is damaged")
        return data

    def open(self, blob: Descriptor) -> Readable:
        path = self._context.resolve(f"{self._top}/{_path_of(blob['digest'])}")
        return self._context.open(self._context.files[path])


def from_context(context: Context, top: str) -> ImportedCache:
    """Raises InvalidParameter, NotFound."""
    origin = _InContext(context, top)
    index = parse_index(origin.read("index.json"))
    if not index["manifests"]:
        raise NotFound("the exported build cache is empty")
    manifest = parse_manifest(origin.document(index["manifests"][0]))
    return ImportedCache(ImportedSteps(manifest, origin.document(manifest["config"])), origin)


def write_layout(steps: Mapping[str, CacheEntry], ingest: Ingest, out: Writable) -> None:
    """A tar of an OCI layout with one manifest."""
    manifest, config = manifest_of(steps, _compressed(steps, ingest))
    index = Index(schemaVersion=2, mediaType=INDEX, manifests=[descriptor_of(manifest, MANIFEST)])
    documents = {
        "oci-layout": LAYOUT_FILE,
        "index.json": encode(index),
        _path_of(digest.of_bytes(manifest)): manifest,
        _path_of(digest.of_bytes(config)): config,
    }
    for name, data in documents.items():
        _write(out, name, len(data), io.BytesIO(data))
    for blob in parse_manifest(manifest)["layers"]:
        with closing(ingest.open_blob(blob["digest"])) as file:
            _write(out, _path_of(blob["digest"]), blob["size"], file)
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def _write(out: Writable, name: str, size_bytes: int, file: Readable) -> None:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    out.write(info.tobuf(tarfile.USTAR_FORMAT))
    while chunk := file.read(_CHUNK_BYTES):
        out.write(chunk)
    out.write(bytes(-size_bytes % tarfile.BLOCKSIZE))


def _path_of(blob: str) -> str:
    return f"blobs/{digest.ALGORITHM}/{digest.hex_of(blob)}"

"""Image archives into a store: docker-archive (`docker save`) and OCI layout tars, compressed or not.

The archive is a stream and its table of contents may come last, so the members become blobs as they pass (one
read, one hash), and what looks like a layer is unpacked beside, from pages just written, while the next arrives.
Layers that no image turns out to want (an archive may hold other platforms') are thrown away again.
"""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import IO, Any, Protocol

from runtime.content.compression import Readable, decompressed
from runtime.content.contents import UNPACKING_AT_ONCE
from runtime.content.documents import (
    DOCUMENT_BYTES_MAX,
    encode,
    parse_config,
    parse_index,
    parse_json,
    parse_manifest,
)
from runtime.content.image import Image, LoadedImage
from runtime.content.layers import UnpackedLayer, read_padding
from runtime.content.tar_reader import BLOCK, HARD_LINK, REGULAR, SYMLINK, TarReader
from runtime.errors import InvalidParameter
from runtime.oci import digest
from runtime.oci.image import (
    ANNOTATION_IMAGE_NAME,
    ANNOTATION_REF_NAME,
    CONFIG,
    INDEX_TYPES,
    LAYER_TAR,
    LAYER_TAR_GZIP,
    LAYER_TAR_ZSTD,
    MANIFEST,
    MANIFEST_TYPES,
    Descriptor,
    Manifest,
    Platform,
    choose_platform,
    image_for,
    platform_matches,
    platform_of,
    platform_text,
)
from runtime.oci.reference import Reference, parse

Progress = Callable[[str, int, int], None]
"""Called by several threads with a layer's blob, its bytes unpacked so far and its size in bytes."""

_DOCKER_MANIFEST, _OCI_INDEX, _OCI_LAYOUT = "manifest.json", "index.json", "oci-layout"
_DOCUMENTS = frozenset({_DOCKER_MANIFEST, _OCI_INDEX, _OCI_LAYOUT})
_BLOB_PREFIX = f"blobs/{digest.ALGORITHM}/"
_MEMBERS_MAX = 100_000
_LINKS_MAX = 10
_INDEX_DEPTH_MAX = 4
_LAYER_TYPES = {None: LAYER_TAR, "gzip": LAYER_TAR_GZIP, "zstd": LAYER_TAR_ZSTD}


class Ingesting(Protocol):
    """Where content goes; `runtime.content.ingest.Ingest`."""

    def has_blob(self, blob: str) -> bool: ...
    def add_blob(
        self, source: Readable, expected: str | None = None, on_bytes: Callable[[int], None] = ...
    ) -> tuple[str, int]: ...
    def is_new(self, blob: str) -> bool: ...
    def read_blob(self, blob: str) -> bytes: ...
    def open_blob(self, blob: str) -> IO[bytes]: ...
    def unpack_ahead(self, blob: str, on_bytes: Callable[[int], None]) -> UnpackedLayer: ...
    def discard_layer(self, layer: UnpackedLayer) -> None: ...
    def owner_of(self, reference: Reference) -> str: ...
    def add_image(
        self, manifest: bytes, references: Sequence[Reference], unpacked: Mapping[str, UnpackedLayer] = ...
    ) -> Image: ...


def load_archive(
    store: Ingesting, stream: Readable, on_progress: Progress | None = None, platform: Platform | None = None
) -> list[LoadedImage]:
    """Adds every image of the archive that is for this platform, or the `platform` alone. Raises InvalidParameter."""
    ahead = _Ahead(store, on_progress or (lambda blob, current, total: None))
    try:
        return _load(store, _read_members(store, stream, ahead), ahead, platform)
    finally:
        ahead.close()


def _load(store: Ingesting, archive: "_Archive", ahead: "_Ahead", platform: Platform | None) -> list[LoadedImage]:
    # Docker >= 25 writes both tables; the OCI one keeps the manifests and so their digests.
    if _OCI_LAYOUT in archive.documents and _OCI_INDEX in archive.documents:
        loaded = _load_oci(store, archive, ahead, platform)
    elif _DOCKER_MANIFEST in archive.documents:
        loaded = _load_docker(store, archive, ahead, platform)
    else:
        raise InvalidParameter(
            "this is not an image archive: it has neither a manifest.json nor an OCI index.json "
            "(use import for a plain root file system)"
        )
    if not loaded and platform:
        raise InvalidParameter(f"the archive contains no image for {platform_text(platform)}")
    if not loaded:
        raise InvalidParameter("the archive contains no image")
    return loaded


class _Archive:
    """The members of an archive: documents in memory, everything else as blobs by member name."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.blobs: dict[str, tuple[str, int]] = {}
        self.links: dict[str, str] = {}

    def blob(self, name: str) -> tuple[str, int]:
        """Digest and size of a member; old docker archives link layers that several images share."""
        target = posixpath.normpath(name)
        for _ in range(_LINKS_MAX):
            if target in self.blobs:
                return self.blobs[target]
            if target not in self.links:
                break
            target = self.links[target]
        raise InvalidParameter(f'the archive is incomplete: it names "{name}" but does not contain it')


class _Ahead:
    """Layers unpacked before it is known what they are for."""

    def __init__(self, store: Ingesting, on_progress: Progress) -> None:
        self._store = store
        self._on_progress = on_progress
        self._pool = ThreadPoolExecutor(UNPACKING_AT_ONCE, "unpack")
        self._running: dict[str, Future[UnpackedLayer]] = {}  # by blob, until an image has it
        self._taken: list[UnpackedLayer] = []

    def close(self) -> None:
        """Away with what no image took."""
        self._pool.shutdown(cancel_futures=True)
        done = [future for future in self._running.values() if not future.cancelled()]
        for layer in [*self._taken, *(future.result() for future in done if not future.exception())]:
            self._store.discard_layer(layer)

    def begin(self, blob: str, size: int) -> None:
        """Unpacks the blob if it came just now and looks like a layer."""
        if blob in self._running or not self._store.is_new(blob):
            return
        with self._store.open_blob(blob) as file:
            if not _is_layer(file.read(BLOCK)):
                return
        self._running[blob] = self._pool.submit(
            self._store.unpack_ahead, blob, lambda current: self._on_progress(blob, current, size)
        )

    def layers_for(self, manifest: Manifest, diff_ids: Sequence[str]) -> dict[str, UnpackedLayer]:
        """Those of an image by chain ID. One that failed is left to whoever unpacks it again, and says why."""
        wanted = [layer["digest"] for layer in manifest["layers"]]
        wait([self._running[blob] for blob in wanted if blob in self._running])
        found = {}
        for blob, diff_id, chain_id in zip(wanted, diff_ids, digest.chain_ids(diff_ids), strict=False):
            future = self._running.get(blob)
            if future and not future.exception() and future.result().diff_id == diff_id:
                found[chain_id] = self._running.pop(blob).result()
                self._taken.append(found[chain_id])
        return found


_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # other ways are stored anew


def _is_layer(beginning: bytes) -> bool:
    return beginning.startswith(_COMPRESSED) or beginning[257:262] == b"ustar"


def _read_members(store: Ingesting, stream: Readable, ahead: _Ahead) -> _Archive:
    archive = _Archive()
    plain, _ = decompressed(stream)
    reader = TarReader(plain)
    for count, entry in enumerate(reader):
        if count >= _MEMBERS_MAX:
            raise InvalidParameter(f"the archive has more than {_MEMBERS_MAX} members")
        name = posixpath.normpath(entry.name)
        if entry.kind == SYMLINK:
            archive.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.link_target))
        elif entry.kind == HARD_LINK:
            archive.links[name] = posixpath.normpath(entry.link_target)
        elif entry.kind == REGULAR and name in _DOCUMENTS:
            if entry.size > DOCUMENT_BYTES_MAX:
                raise InvalidParameter(f"the archive's {name} is larger than {DOCUMENT_BYTES_MAX >> 20} MiB")
            archive.documents[name] = reader.read()
        elif entry.kind == REGULAR:
            archive.blobs[name] = blob, size = _add_member(store, reader, name, entry.size)
            ahead.begin(blob, size)
    read_padding(plain, "archive")  # a client may still be sending it, and takes a closed connection for a failure
    return archive


def _add_member(store: Ingesting, reader: TarReader, name: str, size: int) -> tuple[str, int]:
    expected = None
    if name.startswith(_BLOB_PREFIX):
        expected = f"{digest.ALGORITHM}:{name.removeprefix(_BLOB_PREFIX)}"
        if digest.is_digest(expected) and store.has_blob(expected):
            return expected, size
    return store.add_blob(reader, expected)


def _add_image(
    store: Ingesting, ahead: _Ahead, manifest: bytes, references: Sequence[Reference], platform: Platform | None
) -> list[LoadedImage]:
    """Nothing when it is not for the platform asked for."""
    parsed = parse_manifest(manifest)
    config = parse_config(store.read_blob(parsed["config"]["digest"]))
    if platform and not platform_matches(platform, platform_of(config)):
        return []
    before = {reference: store.owner_of(reference) for reference in references if reference.tag}
    image = store.add_image(manifest, references, ahead.layers_for(parsed, config["rootfs"]["diff_ids"]))
    taken_from = {reference.familiar(): owner for reference, owner in before.items() if owner not in ("", image.id)}
    return [LoadedImage(image, tuple(reference.familiar() for reference in references), taken_from)]


# --- OCI layout -------------------------------------------------------------------------------------------


def _load_oci(store: Ingesting, archive: _Archive, ahead: _Ahead, platform: Platform | None) -> list[LoadedImage]:
    index = parse_index(archive.documents[_OCI_INDEX], _OCI_INDEX)
    names: dict[str, list[Reference]] = {}
    for descriptor in index["manifests"]:
        references = names.setdefault(descriptor["digest"], [])
        if (reference := _annotated_name(descriptor)) is not None:
            references.append(reference)
    loaded = []
    for chosen, references in names.items():
        descriptor = next(entry for entry in index["manifests"] if entry["digest"] == chosen)
        manifest = _chosen_manifest(store, archive, descriptor, platform)
        if manifest is not None:
            loaded += _add_image(store, ahead, manifest, references, platform)
    return loaded


def _annotated_name(descriptor: Descriptor) -> Reference | None:
    annotations = descriptor.get("annotations") or {}
    if name := annotations.get(ANNOTATION_IMAGE_NAME):
        return parse(name)
    name = annotations.get(ANNOTATION_REF_NAME, "")
    # By the specification a tag alone; podman and skopeo write whole names here.
    return parse(name) if "/" in name or ":" in name else None


def _chosen_manifest(
    store: Ingesting, archive: _Archive, descriptor: Descriptor, platform: Platform | None, depth: int = 0
) -> bytes | None:
    """The manifest `descriptor` stands for on this platform, or the one asked for; None for what is no image
    (attestations), or not for that."""
    if depth > _INDEX_DEPTH_MAX:
        raise InvalidParameter("the archive's image indexes are nested too deeply")
    media_type = descriptor["mediaType"]
    if media_type in MANIFEST_TYPES:
        return _document(store, archive, descriptor)
    if media_type not in INDEX_TYPES:
        return None
    index = parse_index(_document(store, archive, descriptor))
    chosen = image_for(index, platform) if platform else choose_platform(index)
    return _chosen_manifest(store, archive, chosen, platform, depth + 1) if chosen else None


def _document(store: Ingesting, archive: _Archive, descriptor: Descriptor) -> bytes:
    blob = descriptor["digest"]
    _, size = archive.blob(_BLOB_PREFIX + digest.hex_of(blob))  # says what is missing
    if size != descriptor["size"]:
        raise InvalidParameter(f"the blob {blob} has {size} bytes, its descriptor says {descriptor['size']}")
    return store.read_blob(blob)


# --- docker-archive ---------------------------------------------------------------------------------------


def _load_docker(store: Ingesting, archive: _Archive, ahead: _Ahead, platform: Platform | None) -> list[LoadedImage]:
    items = parse_json(archive.documents[_DOCKER_MANIFEST], _DOCKER_MANIFEST)
    if not isinstance(items, list):
        raise InvalidParameter("the archive's manifest.json is not a list of images")
    loaded = []
    for item in items:
        config_name, tags, layer_names = _docker_item(item)
        references = [parse(tag) for tag in tags]
        config, config_size = archive.blob(config_name)
        parse_config(store.read_blob(config))
        manifest = Manifest(
            schemaVersion=2,
            mediaType=MANIFEST,
            config=Descriptor(mediaType=CONFIG, digest=config, size=config_size),
            layers=[_layer_descriptor(store, *archive.blob(name)) for name in layer_names],
        )
        loaded += _add_image(store, ahead, encode(manifest), references, platform)
    return loaded


def _docker_item(item: Any) -> tuple[str, list[str], list[str]]:
    try:
        config, tags, layers = item["Config"], item.get("RepoTags") or [], item["Layers"] or []
    except (TypeError, KeyError, AttributeError):
        raise InvalidParameter("the archive's manifest.json lacks Config or Layers") from None
    texts = [config, *tags, *layers] if isinstance(tags, list) and isinstance(layers, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidParameter("the archive's manifest.json has names that are not strings")
    return config, tags, layers


def _layer_descriptor(store: Ingesting, blob: str, size: int) -> Descriptor:
    with store.open_blob(blob) as file:
        plain, compression = decompressed(file)
        if compression not in _LAYER_TYPES:
            blob, size = store.add_blob(plain)  # bzip2 and xz layers have no media type
            compression = None
    return Descriptor(mediaType=_LAYER_TYPES[compression], digest=blob, size=size)

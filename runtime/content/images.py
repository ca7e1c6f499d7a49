"""The images of one engine: found in memory, kept in an OCI image layout, unpacked once.

Content enters through an `Ingest`, which keeps what it has put in or relies upon from being collected until
an image refers to it, and collects what no image came to refer to.
"""

import io
import logging
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

from runtime.content.archive import Writable, write_diff
from runtime.content.changes import apply_changes
from runtime.content.compression import Readable, decompressed
from runtime.content.documents import descriptor_of, encode, parse_config, parse_manifest
from runtime.content.image import Image, LoadedImage
from runtime.content.layers import LayerStore, UnpackedLayer, layer_path
from runtime.content.layout import Layout
from runtime.content.load import Progress, load_archive
from runtime.content.save import index_of, write_archive
from runtime.content.trash import Trash
from runtime.content.tree import data_size_bytes
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci import digest
from runtime.oci.image import (
    ANNOTATION_IMAGE_NAME,
    ANNOTATION_TAGGED_AT,
    CONFIG,
    LAYER_TAR,
    LAYER_TAR_GZIP,
    MANIFEST,
    ContainerDefaults,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    Platform,
    RootFS,
    platform_of_host,
)
from runtime.oci.reference import Reference, parse, parse_name

log = logging.getLogger(__name__)

UNPACKING_AT_ONCE = 3
GZIP_LEVEL = 5
PLAIN_LAYER_TYPES = (LAYER_TAR, "application/vnd.docker.image.rootfs.diff.tar")
NOTHING: Mapping[str, UnpackedLayer] = MappingProxyType({})
_ID_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class ImageStore:
    """All images under one data root. Thread-safe; `get` and `all` answer from memory, the rest is slow."""

    def __init__(self, root: Path, held: Iterable[str] = ()) -> None:
        """Opens or creates the store and clears what a killed process left half done.

        `held` as for `hold`. Raises Conflict when another engine has it open.
        """
        self._lock = threading.RLock()
        self._in_use: Counter[str] = Counter(held)  # digests an Ingest holds, or a cache
        self._images: dict[str, Image] = {}
        self._references: dict[Reference, str] = {}  # with a tag or a digest, never both; to an image's id
        self._layout = Layout(root / "content")
        try:
            self._layers_directory = root / "layers"
            self._layers = LayerStore(self._layers_directory, Trash(root / "trash"))
            self._read_index()
            self._collect([*self._layout.digests(), *self._layers.chain_ids()])
        except BaseException:
            self._layout.close()
            raise

    def close(self) -> None:
        """Lets another process open the store."""
        self._layout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- finding ------------------------------------------------------------------------------------------

    def all(self) -> list[Image]:
        with self._lock:
            return [*self._images.values()]

    def get(self, name: str) -> Image:
        """The image called `name`: a reference, an id, or the unmistakable beginning of an id.

        Raises NotFound, InvalidParameter (bad reference, or an id's beginning that fits several).
        """
        with self._lock:
            return self._images[self._find(name)]

    def of_reference(self, reference: Reference) -> Image | None:
        """The image that has exactly this tag or digest."""
        with self._lock:
            image_id = self._find_reference(reference)
            return self._images[image_id] if image_id else None

    def _find(self, name: str) -> str:
        if (image_id := self._find_id(name)) is not None:
            return image_id
        if _ID_PREFIX.fullmatch(name) and len(name) == 64:
            raise NotFound(f"No such image: {name}")
        reference = parse(name)
        image_id = self._find_reference(reference) or self._find_prefix(name)
        if image_id is None:
            raise NotFound(f"No such image: {reference.familiar()}")
        return image_id

    def _find_id(self, name: str) -> str | None:
        full = name if name.startswith(f"{digest.ALGORITHM}:") else f"{digest.ALGORITHM}:{name}"
        return full if full in self._images else None

    def _find_reference(self, reference: Reference) -> str | None:
        if reference.digest is None:
            return self._references.get(reference)
        by_digest = replace(reference, tag=None)
        if by_digest in self._references:
            return self._references[by_digest]
        for tagged, image_id in self._references.items():
            if tagged.name == reference.name and self._images[image_id].manifest_digest == reference.digest:
                return image_id
        return None

    def _find_prefix(self, name: str) -> str | None:
        beginning = name.removeprefix(f"{digest.ALGORITHM}:")
        if not _ID_PREFIX.fullmatch(beginning):
            return None
        full = f"{digest.ALGORITHM}:{beginning}"
        matches = [image_id for image_id in self._images if image_id.startswith(full)]
        if len(matches) > 1:
            raise InvalidParameter(f"{name} is the beginning of {len(matches)} image ids; give more of it")
        return matches[0] if matches else None

    def layer_sizes(self) -> dict[str, int]:
        """Bytes of data in every unpacked layer that an image has, by chain ID."""
        with self._lock:
            chain_ids = {chain_id for image in self._images.values() for chain_id in image.chain_ids}
            return {chain_id: self._layers.size_bytes(chain_id) for chain_id in chain_ids if chain_id in self._layers}

    def unpacked_bytes(self, chain_id: str) -> int | None:
        """Bytes of data in an unpacked layer, None if there is none."""
        with self._lock:
            return self._layers.size_bytes(chain_id) if chain_id in self._layers else None

    # --- holding what no image has ------------------------------------------------------------------------

    def hold(self, digests: Iterable[str]) -> None:
        """Keeps blobs and layers (by chain ID) from being collected; each as often as it is held."""
        with self._lock:
            self._in_use.update(digests)

    def let_go(self, digests: Sequence[str]) -> None:
        """Undoes `hold`, and deletes what nothing else holds or refers to."""
        with self._lock:
            self._in_use.subtract(digests)
            self._in_use += Counter()
            self._collect(digests)

    # --- adding -------------------------------------------------------------------------------------------

    @contextmanager
    def ingest(self) -> Iterator["Ingest"]:
        """Content on its way in; what no image refers to at the end is deleted again."""
        ingest = Ingest(self)
        try:
            yield ingest
        finally:
            with self._lock:
                self._in_use.subtract(ingest.held)
                self._in_use += Counter()  # drops what nobody holds any more
                self._collect(ingest.held)

    def load(self, stream: Readable, on_progress: Progress | None = None) -> list[LoadedImage]:
        """Adds the images of a docker-archive or OCI layout tar, compressed or not.

        Raises InvalidParameter, SystemFault; images added before the failure stay.
        """
        with self.ingest() as ingest:
            return load_archive(ingest, stream, on_progress)

    def import_tar(
        self,
        stream: Readable,
        reference: str | None,
        changes: Sequence[str] = (),
        message: str = "Imported from -",
        platform: Platform | None = None,
    ) -> Image:
        """Makes an image of a plain root file system tar, compressed or not (`docker import`)."""
        references = [parse(reference)] if reference else []
        config = _new_config(platform or platform_of_host(), apply_changes(ContainerDefaults(), changes))
        history = History(created=config["created"], comment=message)
        plain, _ = decompressed(stream)
        with self.ingest() as ingest:
            layer, size = ingest.add_blob(plain)
            return ingest.add_layer(None, config, history, layer, size, references)

    def commit(
        self,
        parent: Image,
        upper: Path,
        settings: ContainerDefaults,
        reference: str | None = None,
        comment: str = "",
        author: str = "",
        created_by: str = "",
        leave_out: Container[str] = (),
    ) -> Image:
        """Makes an image of `parent` and the changes in a container's `upper` directory.

        `settings` are the new image's whole container defaults, `leave_out` is for `write_diff`. Raises
        InvalidParameter, OSError.
        """
        references = [parse(reference)] if reference else []
        config = _new_config(parent.platform, settings)
        if author:
            config["author"] = author
        history = History(created=config["created"], created_by=created_by, author=author, comment=comment)
        with self.ingest() as ingest:
            layer, size = ingest.create_blob(lambda out: write_diff(upper, out, leave_out))
            return ingest.add_layer(parent, config, history, layer, size, references)

    def _add(self, image: Image, references: Sequence[Reference]) -> Image:
        """Makes a complete image known. An image already there keeps the manifest it has."""
        with self._addition():
            self._images.setdefault(image.id, image)
            for reference in references:
                self._references[_stored(reference)] = image.id
            if references:
                self._note_tagged(image.id)
        return self._images[image.id]

    def _note_tagged(self, image_id: str) -> None:
        self._images[image_id] = replace(self._images[image_id], tagged_at=_now())

    def discard_layer(self, layer: UnpackedLayer) -> None:
        """Away with what `Ingest.receive_layer` made, unless it became part of an image."""
        self._layers.discard(layer)

    # --- names --------------------------------------------------------------------------------------------

    def tag(self, image_id: str, reference: str) -> Image:
        """Gives an image a name, taking it from the image that had it. Raises NotFound, InvalidParameter."""
        parsed = parse(reference)
        if parsed.digest:
            raise InvalidParameter(f"refusing to create a tag with a digest reference: {reference}")
        with self._addition():
            found = self._find(image_id)
            self._references[parsed] = found
            self._note_tagged(found)
        return self._images[found]

    def untag(self, reference: str) -> Image:
        """Takes a name away; returns the image that had it, perhaps with no name left. Raises NotFound."""
        parsed = parse(reference)
        with self._lock:
            image_id = self._references.pop(_stored(parsed), None)
            if image_id is None:
                raise NotFound(f"No such image: {parsed.familiar()}")
            self._note_removal()
            return self._images[image_id]

    def add_digest(self, image_id: str, reference: Reference) -> None:
        """Notes the digest an image has in a repository it was pushed to. Raises NotFound."""
        with self._lock:
            self._references[_stored(reference)] = self._find(image_id)
            self._write_index()

    def references_of(self, image_id: str) -> list[Reference]:
        """Every name of an image: tags first, in the order of their text."""
        with self._lock:
            found = [name for name, owner in self._references.items() if owner == image_id]
        return sorted(found, key=lambda name: (name.tag is None, str(name)))

    def directories(self, image: Image) -> list[Path]:
        """Where its layers are unpacked, the top first."""
        return [layer_path(self._layers_directory, chain_id) for chain_id in reversed(image.chain_ids)]

    def tags_of(self, repository: Reference) -> dict[Reference, Image]:
        """What the tags of a repository stand for, in the order of their names."""
        with self._lock:
            found = {name: owner for name, owner in self._references.items() if name.tag}
            mine = {name: self._images[owner] for name, owner in found.items() if name.name == repository.name}
            return dict(sorted(mine.items(), key=lambda item: item[0].tag or ""))

    def repositories_with(self, blob: str, domain: str) -> list[str]:
        """Paths of the repositories at `domain` that had the blob when an image came from or went to them."""
        with self._lock:
            return [
                name.path
                for name, owner in self._references.items()
                if name.domain == domain and name.digest and blob in self._images[owner].blobs
            ]

    # --- removing -----------------------------------------------------------------------------------------

    def delete(self, image_id: str) -> list[str]:
        """Removes an image with all its names, and the content no other image has.

        Returns the digests that are gone: the image's id and the chain ids of its unpacked layers, top first.
        Whether a container still needs the image is the caller's question. Disk space comes back when
        `Snapshots.reap` runs. Raises NotFound.
        """
        with self._lock:
            image = self._images.pop(self._find(image_id))
            self._references = {name: owner for name, owner in self._references.items() if owner != image.id}
            noted = self._note_removal()
            removed_layers = self._collect([*reversed(image.chain_ids), *image.blobs])
            if not noted:
                self._note_removal()  # there is room now
            return [image.id, *removed_layers]

    def _collect(self, candidates: Iterable[str]) -> list[str]:
        """Deletes those blobs and layers that nothing refers to or holds; returns the layers' chain ids.

        One digest may name both: the diff ID of an uncompressed bottom layer is its blob and its chain ID.
        """
        blobs = {blob for image in self._images.values() for blob in image.blobs}
        layers = {chain_id for image in self._images.values() for chain_id in image.chain_ids}
        removed = []
        for candidate in dict.fromkeys(candidates):
            if candidate in self._in_use:
                continue
            if candidate not in blobs:
                self._layout.remove(candidate)
            if candidate not in layers and candidate in self._layers:
                self._layers.remove(candidate)
                removed.append(candidate)
        return removed

    # --- archives -----------------------------------------------------------------------------------------

    def save(self, names: Sequence[str], out: Writable) -> None:
        """Writes images as one archive for `docker load` and OCI tools.

        A repository without a tag stands for all its tags, an id for the image without a name.
        Raises NotFound, InvalidParameter.
        """
        with self.ingest() as ingest:
            images = self.chosen(names)
            for image, _ in images:
                for blob in image.blobs:
                    ingest.has_blob(blob)  # holds it while it is read
            write_archive(images, self._layout.path, out)

    def chosen(self, names: Sequence[str]) -> list[tuple[Image, Sequence[Reference]]]:
        """What `save` would write. Raises NotFound, InvalidParameter."""
        chosen: dict[str, list[Reference]] = {}
        with self._lock:
            for name in names:
                for image_id, reference in self._named(name):
                    references = chosen.setdefault(image_id, [])
                    if reference is not None and reference not in references:
                        references.append(reference)
            return [(self._images[image_id], references) for image_id, references in chosen.items()]

    def _named(self, name: str) -> list[tuple[str, Reference | None]]:
        image_id = self._find_id(name)
        if image_id is not None:
            return [(image_id, None)]
        wanted = parse_name(name)
        if wanted.tag is None and wanted.digest is None:
            tags = [(owner, tagged) for tagged, owner in self._references.items() if tagged.name == wanted.name]
            if tags:
                return [(owner, tagged) for owner, tagged in tags if tagged.tag]
        reference = wanted.with_default_tag()
        return [(self._find(name), reference if reference in self._references else None)]

    def read_blob(self, blob: str) -> bytes:
        """A document. Raises NotFound."""
        return self._layout.read(blob)

    def with_compressed_layers(self, image_id: str, ingest: "Ingest") -> Image:
        """The image with its uncompressed layers kept in gzip from now on, as registries expect them."""
        image = self.get(image_id)
        plain = {layer["digest"] for layer in image.layers if layer["mediaType"] in PLAIN_LAYER_TYPES}
        if not plain:
            return image
        with ThreadPoolExecutor(UNPACKING_AT_ONCE, "compress") as pool:
            done = dict(zip(plain, pool.map(ingest.compress, plain), strict=True))
        manifest = Manifest(
            schemaVersion=2,
            mediaType=MANIFEST,
            config=Descriptor(mediaType=CONFIG, digest=image.id, size=len(self._layout.read(image.id))),
            layers=[done.get(layer["digest"], layer) for layer in image.layers],
        )
        data = encode(manifest)
        ingest.add_blob(io.BytesIO(data))
        with self._lock:
            current = self._images[self._find(image_id)]
            changed = replace(current, manifest=descriptor_of(data, MANIFEST), layers=tuple(manifest["layers"]))
            self._layout.sync(changed.blobs)
            self._images[image_id] = changed
            self._write_index()
            self._collect(current.blobs)
            return self._images[image_id]

    # --- the index on disk --------------------------------------------------------------------------------

    def _write_index(self) -> None:
        """Persists images and names, and refreshes the names in the images themselves."""
        names: dict[str, list[Reference]] = {image_id: [] for image_id in self._images}
        for reference, image_id in sorted(self._references.items(), key=lambda item: str(item[0])):
            names[image_id].append(reference)
        for image_id, references in names.items():
            self._images[image_id] = replace(
                self._images[image_id],
                references=tuple(reference.familiar() for reference in references if reference.tag),
                repo_digests=tuple(reference.familiar() for reference in references if reference.digest),
            )
        index = index_of([(self._images[owner], found) for owner, found in names.items()], own=True)
        if index != self._layout.read_index():  # an engine starts on a full disk too
            self._layout.write_index(index)

    @contextmanager
    def _addition(self) -> Iterator[None]:
        """What is done inside, with the index of it, or nothing when the disk is full."""
        with self._lock:
            before = dict(self._images), dict(self._references)
            try:
                yield
                self._write_index()
            except BaseException:
                self._images, self._references = before
                raise

    def _note_removal(self) -> bool:
        """A full disk is no reason to keep what was removed; the index is then right after the next change."""
        try:
            self._write_index()
        except OSError as error:
            log.warning("the index of images is not up to date on disk: %s", error)
            return False
        return True

    def _read_index(self) -> None:
        """Fills the memory from the index. An image that cannot be read is left out and said so."""
        for descriptor in self._layout.read_index()["manifests"]:
            try:
                image = self._assemble(descriptor, self._layout.read(descriptor["digest"]))
                annotations = descriptor.get("annotations") or {}
                self._images.setdefault(image.id, replace(image, tagged_at=annotations.get(ANNOTATION_TAGGED_AT, "")))
                name = annotations.get(ANNOTATION_IMAGE_NAME)
                if name:
                    self._references[_stored(parse(name))] = image.id
            except (WherryError, OSError) as error:
                log.warning("the image %s cannot be used: %s; pull or load it again", descriptor["digest"], error)
        if self._images:
            self._note_removal()

    def _assemble(
        self,
        descriptor: Descriptor,
        manifest_bytes: bytes,
        unpacked: Mapping[str, UnpackedLayer] = NOTHING,
    ) -> Image:
        """The image a manifest in the layout describes, its layers unpacked if they are not.

        `unpacked`: layers that only lack their names, by chain ID.
        """
        manifest = parse_manifest(manifest_bytes)
        image_id = manifest["config"]["digest"]
        config = parse_config(self._layout.read(image_id))
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(manifest["layers"]):
            raise InvalidParameter(
                f"the image's manifest has {len(manifest['layers'])} layers, its configuration {len(diff_ids)}"
            )
        chain_ids = digest.chain_ids(diff_ids)
        self._unpack_missing(chain_ids, diff_ids, manifest["layers"], unpacked)
        return Image(
            id=image_id,
            references=(),
            repo_digests=(),
            config=config,
            size_bytes=sum(self._layers.size_bytes(chain_id) for chain_id in chain_ids),
            created=config["created"],
            architecture=config["architecture"],
            os=config["os"],
            chain_ids=chain_ids,
            manifest=Descriptor(
                mediaType=descriptor["mediaType"], digest=descriptor["digest"], size=descriptor["size"]
            ),
            layers=tuple(manifest["layers"]),
        )

    def _unpack_missing(
        self,
        chain_ids: Sequence[str],
        diff_ids: Sequence[str],
        layers: Sequence[Descriptor],
        unpacked: Mapping[str, UnpackedLayer],
    ) -> None:
        """Layers do not depend on each other until they are named, so several are unpacked at the same time."""
        missing = [height for height, chain_id in enumerate(chain_ids) if chain_id not in self._layers]
        found = {height: unpacked[chain_ids[height]] for height in missing if chain_ids[height] in unpacked}

        def unpack(height: int) -> UnpackedLayer:
            with self._layout.open(layers[height]["digest"]) as blob:
                return self._layers.unpack(diff_ids[height], blob)

        to_unpack = [height for height in missing if height not in found]
        own: dict[int, UnpackedLayer] = {}
        try:
            if len(to_unpack) == 1:
                own[to_unpack[0]] = unpack(to_unpack[0])
            elif to_unpack:
                with ThreadPoolExecutor(min(UNPACKING_AT_ONCE, len(to_unpack)), "unpack") as pool:
                    futures = {height: pool.submit(unpack, height) for height in to_unpack}
                    wait(futures.values())
                    own |= {height: future.result() for height, future in futures.items() if not future.exception()}
                    for future in futures.values():
                        future.result()
            self._layers.adopt([(chain_ids[: height + 1], (found | own)[height]) for height in missing])
        finally:
            for layer in own.values():
                self._layers.discard(layer)


class Ingest:
    """One batch of content on its way into the store, from `ImageStore.ingest`. Its methods are thread-safe."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self.held: set[str] = set()

    def has_blob(self, blob: str) -> bool:
        """Whether the blob is there; if so it stays until the end of the batch."""
        self._hold(blob)
        return blob in self._store._layout

    def add_blob(
        self,
        source: Readable,
        expected: str | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> tuple[str, int]:
        """Stores `source`; returns its digest and size in bytes. Raises InvalidParameter, not the `expected`."""
        return self._store._layout.add(source, expected, self._hold, on_bytes)

    def create_blob(self, fill: Callable[[Writable], None]) -> tuple[str, int]:
        """Stores what `fill` writes; returns its digest and size in bytes."""
        return self._store._layout.create(fill, before_visible=self._hold)

    def read_blob(self, blob: str) -> bytes:
        return self._store._layout.read(blob)

    def open_blob(self, blob: str) -> IO[bytes]:
        return self._store._layout.open(blob)

    def receive_layer(self, source: Readable, expected: str, diff_id: str) -> UnpackedLayer:
        """Stores the blob `expected` and unpacks it while it arrives; the result is for `add_image` or `discard_layer`.

        Raises InvalidParameter when the compressed or the plain content is not what the digests say.
        """
        store = self._store
        received: list[UnpackedLayer] = []

        def receive(out: Writable) -> None:
            tee = _Tee(source, out)
            received.append(store._layers.unpack(diff_id, tee))
            while tee.read(1 << 18):
                pass  # what follows the compressed data counts in the digest

        try:
            store._layout.create(receive, expected, self._hold)
        except BaseException:
            for layer in received:
                store._layers.discard(layer)
            raise
        return received[0]

    def compress(self, blob: str) -> Descriptor:
        """An uncompressed layer as a gzip blob: the same bytes for the same layer, whenever and wherever."""

        def fill(out: Writable) -> None:
            deflater = zlib.compressobj(GZIP_LEVEL, wbits=31)
            with self.open_blob(blob) as file:
                while chunk := file.read(1 << 20):
                    out.write(deflater.compress(chunk))
            out.write(deflater.flush())

        found, size = self.create_blob(fill)
        return Descriptor(mediaType=LAYER_TAR_GZIP, digest=found, size=size)

    def has_layer(self, chain_id: str) -> bool:
        """Whether the layer is unpacked; if so it stays until the end of the batch."""
        self._hold(chain_id)
        return chain_id in self._store._layers

    def unpack_layer(self, blob: str, diff_id: str) -> UnpackedLayer:
        """As `receive_layer`, for a blob that is here."""
        with self._store._layout.open(blob) as source:
            return self._store._layers.unpack(diff_id, source)

    def add_image(
        self,
        manifest: bytes,
        references: Sequence[Reference],
        unpacked: Mapping[str, UnpackedLayer] = NOTHING,
    ) -> Image:
        """Makes the image of `manifest` known under `references`; its blobs must be there already.

        Unpacks the layers that are neither there nor among the `unpacked` (by chain ID). Raises InvalidParameter
        when manifest, configuration and layers do not agree, NotFound when a blob is missing.
        """
        store = self._store
        parsed = parse_manifest(manifest)
        for blob in (parsed["config"], *parsed["layers"]):
            self._hold(blob["digest"])
        config = parse_config(self.read_blob(parsed["config"]["digest"]))
        for chain_id in digest.chain_ids(config["rootfs"]["diff_ids"]):
            self._hold(chain_id)
        self.add_blob(io.BytesIO(manifest))
        image = store._assemble(descriptor_of(manifest, parsed.get("mediaType", MANIFEST)), manifest, unpacked)
        store._layout.sync(image.blobs)
        return store._add(image, references)

    def take_layer(
        self, below: str, upper: Path, leave_out: Container[str] = (), latest_mtime_s: int | None = None
    ) -> "NewLayer":
        """Makes the changes in an overlay's `upper` directory a layer on top of the chain ID `below` ("": none).

        `upper` is gone then. The layer survives this process after `seal` only. Other arguments: `write_diff`.
        """
        blob, size = self.create_blob(lambda out: write_diff(upper, out, leave_out, latest_mtime_s))
        chain_id = digest.of_bytes(f"{below} {blob}".encode()) if below else blob
        self._hold(chain_id)
        self._store._layers.take(chain_id, blob, upper, data_size_bytes(upper))
        return NewLayer(chain_id, blob, Descriptor(mediaType=LAYER_TAR, digest=blob, size=size))

    def seal(self, chain_ids: Iterable[str]) -> None:
        """Makes what `take_layer` made survive this process, and a power cut."""
        self._store._layers.seal(chain_ids)

    def add_layer(
        self,
        parent: Image | None,
        config: ImageConfig,
        history: History,
        layer: str,
        size: int,
        references: Sequence[Reference],
    ) -> Image:
        """Makes an image of `parent` and one more layer, an uncompressed tar added before."""
        below = parent.config["rootfs"]["diff_ids"] if parent else []
        config["rootfs"] = RootFS(type="layers", diff_ids=[*below, layer])
        config["history"] = [*(parent.config["history"] if parent else []), history]
        config_bytes = encode(config)
        self.add_blob(io.BytesIO(config_bytes))
        top = Descriptor(mediaType=LAYER_TAR, digest=layer, size=size)
        manifest = Manifest(
            schemaVersion=2,
            mediaType=MANIFEST,
            config=descriptor_of(config_bytes, CONFIG),
            layers=[*(parent.layers if parent else ()), top],
        )
        return self.add_image(encode(manifest), references)

    def _hold(self, content: str) -> None:
        with self._store._lock:
            if content not in self.held:
                self.held.add(content)
                self._store._in_use[content] += 1


class _Tee:
    """Passes a stream through and keeps a copy."""

    def __init__(self, source: Readable, copy: Writable) -> None:
        self._source = source
        self._copy = copy

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._copy.write(data)
        return data


@dataclass(frozen=True, slots=True)
class NewLayer:
    """A layer no image may have yet. `descriptor` is of its blob."""

    chain_id: str
    diff_id: str
    descriptor: Descriptor


def _stored(reference: Reference) -> Reference:
    """A digest names an image by itself; a tag beside it is only a remark."""
    return replace(reference, tag=None) if reference.digest else reference


def _new_config(platform: Platform, settings: ContainerDefaults) -> ImageConfig:
    """A configuration made now; `add_layer` fills in layers and history."""
    config = ImageConfig(
        created=_now(),
        architecture=platform["architecture"],
        os=platform["os"],
        config=settings,
        rootfs=RootFS(type="layers", diff_ids=[]),
        history=[],
    )
    if variant := platform.get("variant"):
        config["variant"] = variant
    return config


def _now() -> str:
    """RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")

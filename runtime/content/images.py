"""The images of one engine: found in memory, kept in an OCI image layout, unpacked once.

Content enters through an `Ingest`, which keeps what it has put in or relies upon from being collected until an
image refers to it, and collects what no image came to refer to.
"""

import io
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Self

from runtime.content.archive import Writable, write_diff
from runtime.content.changes import apply_changes
from runtime.content.compression import Readable, decompressed
from runtime.content.documents import descriptor_of, encode, parse_config, parse_manifest
from runtime.content.image import Image, LoadedImage
from runtime.content.layers import LayerStore
from runtime.content.layout import Layout
from runtime.content.load import Progress, load_archive
from runtime.content.save import index_of, write_archive
from runtime.content.trash import Trash
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci import digest
from runtime.oci.image import (
    ANNOTATION_IMAGE_NAME,
    CONFIG,
    LAYER_TAR,
    MANIFEST,
    ContainerDefaults,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    platform_of_host,
)
from runtime.oci.reference import Reference, parse

log = logging.getLogger(__name__)

_ID_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class ImageStore:
    """All images under one data root. Thread-safe; `get` and `list` answer from memory, the rest may be slow."""

    def __init__(self, root: Path) -> None:
        """Opens or creates the store and clears what a killed process left half done.

        Raises Conflict when another engine has it open.
        """
        self._lock = threading.RLock()
        self._in_use: Counter[str] = Counter()  # digests an Ingest holds
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

    def _find(self, name: str) -> str:
        if name in self._images:
            return name
        if f"{digest.ALGORITHM}:{name}" in self._images:
            return f"{digest.ALGORITHM}:{name}"
        if _ID_PREFIX.fullmatch(name) and len(name) == 64:
            raise NotFound(f"No such image: {name}")
        reference = parse(name)
        image_id = self._find_reference(reference) or self._find_prefix(name)
        if image_id is None:
            raise NotFound(f"No such image: {reference.familiar()}")
        return image_id

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
        self, stream: Readable, reference: str | None, changes: Sequence[str] = (), message: str = ""
    ) -> Image:
        """Makes an image of a plain root file system tar, compressed or not (`docker import`)."""
        references = [parse(reference)] if reference else []
        settings = apply_changes(ContainerDefaults(), changes)
        with self.ingest() as ingest:
            plain, _ = decompressed(stream)
            config = _new_config(None, settings, History(comment=message or "Imported from -"))
            return ingest.add_layer(None, config, plain, references)

    def commit(
        self,
        upper: Path,
        parent: Image,
        settings: ContainerDefaults,
        history: History,
        reference: str | None = None,
        author: str = "",
    ) -> Image:
        """Makes an image of `parent` and the changes in a container's `upper` directory."""
        references = [parse(reference)] if reference else []
        config = _new_config(parent.config, settings, history)
        if author:
            config["author"] = author
        with self.ingest() as ingest, _diff_stream(upper) as diff:
            return ingest.add_layer(parent, config, diff, references)

    # --- names and removal --------------------------------------------------------------------------------

    def tag(self, image_id: str, reference: str) -> None:
        """Gives the image another name; takes the name from the image that has it. Raises NotFound."""
        target = _taggable(reference)
        with self._lock:
            if image_id not in self._images:
                raise NotFound(f"No such image: {image_id}")
            self._name(image_id, [target])

    def untag(self, reference: str) -> None:
        """Takes a name away; the image stays, under its other names or its id alone. Raises NotFound."""
        with self._lock:
            name = parse(reference)
            image_id = self._references.pop(name, None)
            if image_id is None:
                raise NotFound(f"No such image: {name.familiar()}")
            self._refresh(image_id)
            self._write_index()

    def delete(self, image_id: str) -> list[str]:
        """Removes an image, its names, and what no other image needs; returns the digests deleted."""
        with self._lock:
            image = self._images.get(image_id)
            if image is None:
                raise NotFound(f"No such image: {image_id}")
            for name in [name for name, owner in self._references.items() if owner == image_id]:
                del self._references[name]
            del self._images[image_id]
            self._write_index()
            deleted = self._collect([*image.blobs, *reversed(image.chain_ids)])
            return [image_id, *(digest for digest in deleted if digest in image.chain_ids)]

    def save(self, names: Sequence[str], out: Writable) -> None:
        """Writes an archive of these images; one asked for by name keeps that name only. Raises NotFound."""
        wanted: dict[str, list[Reference]] = {}
        with self._lock:
            for name in names:
                image_id = self._find(name)
                references = wanted.setdefault(image_id, [])
                if (reference := _reference_or_none(name)) in self._references and reference is not None:
                    references.append(reference)
            images = [(self._images[image_id], references) for image_id, references in wanted.items()]
        write_archive(images, self._layout.path, out)

    # --- the index ----------------------------------------------------------------------------------------

    def _read_index(self) -> None:
        """Takes in every image of the index whose content is whole; says which are not."""
        for descriptor in self._layout.read_index()["manifests"]:
            try:
                image = self._describe(descriptor)
            except WherryError as error:
                log.error("the image with the manifest %s is damaged and left out: %s", descriptor["digest"], error)
                continue
            self._images.setdefault(image.id, image)
            if name := (descriptor.get("annotations") or {}).get(ANNOTATION_IMAGE_NAME):
                self._references[parse(name)] = image.id
                self._refresh(image.id)

    def _describe(self, manifest: Descriptor) -> Image:
        """The image of a manifest whose layers are unpacked, without names."""
        plain = Descriptor(mediaType=manifest["mediaType"], digest=manifest["digest"], size=manifest["size"])
        document = parse_manifest(self._layout.read(manifest["digest"]))
        config = parse_config(self._layout.read(document["config"]["digest"]))
        chain = digest.chain_ids(config["rootfs"]["diff_ids"])
        if missing := [chain_id for chain_id in chain if chain_id not in self._layers]:
            raise InvalidParameter(f"the layer {missing[0]} is not unpacked")
        return Image(
            document["config"]["digest"],
            (),
            (),
            config,
            sum(self._layers.size_bytes(chain_id) for chain_id in chain),
            config.get("created", ""),
            config["architecture"],
            config["os"],
            chain,
            plain,
            tuple(document["layers"]),
        )

    def _write_index(self) -> None:
        images = [
            (image, [name for name, owner in self._references.items() if owner == image.id])
            for image in self._images.values()
        ]
        self._layout.write_index(index_of(images))

    def _refresh(self, image_id: str) -> None:
        """Brings an image's own list of names in line."""
        names = [name for name, owner in self._references.items() if owner == image_id]
        self._images[image_id] = replace(
            self._images[image_id],
            references=tuple(name.familiar() for name in names if name.digest is None),
            repo_digests=tuple(name.familiar() for name in names if name.digest is not None),
        )

    def _name(self, image_id: str, references: Iterable[Reference]) -> None:
        touched = {image_id}
        for reference in references:
            previous = self._references.get(reference)
            self._references[reference] = image_id
            if previous is not None:
                touched.add(previous)
        for touched_id in touched:
            self._refresh(touched_id)
        self._write_index()

    def _collect(self, digests: Iterable[str]) -> list[str]:
        """Deletes those blobs and layers that neither an image nor an ingest needs; returns them."""
        needed = {blob for image in self._images.values() for blob in (*image.blobs, *image.chain_ids)}
        deleted = []
        for candidate in dict.fromkeys(digests):
            if candidate in needed or self._in_use[candidate] > 0:
                continue
            if candidate in self._layers:
                self._layers.remove(candidate)
                deleted.append(candidate)
            if candidate in self._layout:
                self._layout.remove(candidate)
                deleted.append(candidate)
        return deleted


class Ingest:
    """Content on its way into a store (`load.Ingesting`): all it holds is safe from collection until it ends."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self.held: list[str] = []

    def has_blob(self, blob: str) -> bool:
        """Whether the blob is there; if so, it stays."""
        with self._store._lock:
            if blob not in self._store._layout:
                return False
            self._hold(blob)
            return True

    def add_blob(
        self,
        source: Readable,
        expected: str | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> tuple[str, int]:
        """Digest and size in bytes of what was stored; raises InvalidParameter for another than `expected`."""
        return self._store._layout.add(source, expected, self._hold, on_bytes)

    def read_blob(self, blob: str) -> bytes:
        return self._store._layout.read(blob)

    def open_blob(self, blob: str) -> IO[bytes]:
        try:
            return self._store._layout.path(blob).open("rb")
        except FileNotFoundError:
            raise NotFound(f"the blob {blob} is missing") from None

    def add_image(self, manifest: bytes, references: Sequence[Reference]) -> Image:
        """Unpacks what is missing of an image whose blobs are there, and lets the store know it."""
        document = parse_manifest(manifest)
        config = parse_config(self.read_blob(document["config"]["digest"]))
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(document["layers"]):
            raise InvalidParameter(
                f"the image has {len(document['layers'])} layers, its configuration speaks of {len(diff_ids)}"
            )
        chain = digest.chain_ids(diff_ids)
        for position, layer in enumerate(document["layers"]):
            self._hold(chain[position])
            if chain[position] not in self._store._layers:
                with self.open_blob(layer["digest"]) as file:
                    self._store._layers.add(chain[: position + 1], diff_ids[position], file)
        stored, size = self.add_blob(io.BytesIO(manifest))
        media_type = document.get("mediaType") or MANIFEST
        descriptor = Descriptor(mediaType=media_type, digest=stored, size=size)
        with self._store._lock:
            image = self._store._describe(descriptor)
            self._store._layout.sync(image.blobs)
            self._store._images.setdefault(image.id, image)
            self._store._name(image.id, references)
            return self._store._images[image.id]

    def add_layer(
        self, parent: Image | None, config: ImageConfig, tar: Readable, references: Sequence[Reference]
    ) -> Image:
        """Makes an image of `parent`'s layers and a new one, an uncompressed tar; fills in config's rootfs."""
        blob, size = self.add_blob(tar)
        diff_ids = [*(parent.config["rootfs"]["diff_ids"] if parent else []), blob]
        config["rootfs"] = RootFS(type="layers", diff_ids=diff_ids)
        encoded = encode(config)
        self.add_blob(io.BytesIO(encoded))
        layers = [*(parent.layers if parent else ()), Descriptor(mediaType=LAYER_TAR, digest=blob, size=size)]
        manifest = Manifest(schemaVersion=2, mediaType=MANIFEST, config=descriptor_of(encoded, CONFIG), layers=layers)
        return self.add_image(encode(manifest), references)

    def _hold(self, name: str) -> None:
        with self._store._lock:
            self.held.append(name)
            self._store._in_use[name] += 1


def _taggable(text: str) -> Reference:
    reference = parse(text)
    if reference.digest:
        raise InvalidParameter(f"refusing to create a tag with a digest reference: {text}")
    return reference


def _reference_or_none(text: str) -> Reference | None:
    try:
        return parse(text)
    except InvalidParameter:
        return None


def _new_config(parent: ImageConfig | None, settings: ContainerDefaults, history: History) -> ImageConfig:
    """The configuration of a new image; its rootfs is filled in with its layer."""
    host = platform_of_host()
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return ImageConfig(
        architecture=parent["architecture"] if parent else host["architecture"],
        os=parent["os"] if parent else host["os"],
        created=created,
        config=settings,
        rootfs=RootFS(type="layers", diff_ids=[]),
        history=[*(parent.get("history") or [] if parent else []), History(**{**history, "created": created})],
    )


@contextmanager
def _diff_stream(upper: Path) -> Iterator[IO[bytes]]:
    """The layer tar of an upper directory, written by a thread while it is read."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    failure: list[BaseException] = []

    def write() -> None:
        try:
            with open(write_end, "wb") as out:  # noqa: PTH123 (a descriptor, not a path)
                write_diff(upper, out)
        except BaseException as error:  # noqa: BLE001 (raised again by the reader)
            failure.append(error)

    thread = threading.Thread(target=write, name="wherry-diff")
    thread.start()
    try:
        with open(read_end, "rb") as source:  # noqa: PTH123
            yield source
    finally:
        thread.join()
    if failure:
        raise failure[0]

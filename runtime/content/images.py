"""The images of one engine: kept in an OCI image layout, unpacked once.

Content enters through an `Ingest`, which keeps what it has put in or relies upon from being collected until
an image refers to it, and collects what no image came to refer to.
"""

import io
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from runtime.content.archive import Writable, write_diff
from runtime.content.catalog import Catalog
from runtime.content.changes import apply_changes
from runtime.content.compression import Readable, decompressed
from runtime.content.contents import UNPACKING_AT_ONCE, Contents
from runtime.content.documents import descriptor_of, encode
from runtime.content.image import Image, LoadedImage
from runtime.content.ingest import Ingest
from runtime.content.layers import UnpackedLayer, layer_path
from runtime.content.load import Progress, load_archive
from runtime.content.save import write_archive
from runtime.content.verify import Verifier
from runtime.oci.image import (
    CONFIG,
    LAYER_TAR,
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
from runtime.oci.reference import parse

PLAIN_LAYER_TYPES = (LAYER_TAR, "application/vnd.docker.image.rootfs.diff.tar")


class ImageStore(Catalog):
    """All images under one data root. Thread-safe; `get` and `all` answer from memory, the rest is slow."""

    def __init__(self, root: Path, held: Iterable[str] = ()) -> None:
        """Opens or creates the store and clears what a killed process left half done.

        `held` as for `hold`. Raises Conflict when another engine has it open.
        """
        lock = threading.RLock()
        self._layers_directory = root / "layers"
        self._contents = Contents(root, lock, held)
        super().__init__(lock, self._contents.layout)
        self._contents.of_images = self.content
        try:
            self.read_index(self._assemble)
            self._contents.collect_all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another process open the store."""
        self._layout.close()

    def _assemble(self, descriptor: Descriptor) -> Image:
        return self._contents.assemble(descriptor, self.read_blob(descriptor["digest"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def directories(self, image: Image) -> list[Path]:
        """Where its layers are unpacked, the top first."""
        return [layer_path(self._layers_directory, chain_id) for chain_id in reversed(image.chain_ids)]

    def layer_sizes(self) -> dict[str, int]:
        """Bytes of data in every unpacked layer that an image has, by chain ID."""
        with self._lock:
            layers = self._contents.layers
            return {chain_id: layers.size_bytes(chain_id) for chain_id in self.content()[1] if chain_id in layers}

    def unpacked_bytes(self, chain_id: str) -> int | None:
        """Bytes of data in an unpacked layer, None if there is none."""
        with self._lock:
            return self._contents.layers.size_bytes(chain_id) if chain_id in self._contents.layers else None

    def hold(self, digests: Iterable[str]) -> None:
        """Keeps blobs and layers (by chain ID) from being collected; each as often as it is held."""
        self._contents.hold(digests)

    def let_go(self, digests: Iterable[str]) -> None:
        """Undoes `hold`, and deletes what nothing else holds or refers to."""
        self._contents.let_go(digests)

    def verifier(self) -> Verifier:
        """For content that the caller holds."""
        return Verifier(self._contents)

    # --- adding -------------------------------------------------------------------------------------------

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        """Content on its way in; what no image refers to at the end is deleted again."""
        ingest = Ingest(self._contents, self)
        try:
            yield ingest
        finally:
            self._contents.let_go(ingest.held)

    def load(
        self, stream: Readable, on_progress: Progress | None = None, platform: Platform | None = None
    ) -> list[LoadedImage]:
        """Adds the images of a docker-archive or OCI layout tar, compressed or not; those for `platform` if given.

        Raises InvalidParameter, SystemFault; images added before the failure stay.
        """
        with self.ingest() as ingest:
            return load_archive(ingest, stream, on_progress, platform)

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
        container_id: str = "",
        container_config: dict[str, Any] | None = None,
    ) -> Image:
        """Makes an image of `parent` and the changes in a container's `upper` directory.

        `settings` are the new image's whole container defaults, `leave_out` is for `write_diff`, the container's id and
        Config are kept for older clients. Raises InvalidParameter, OSError.
        """
        references = [parse(reference)] if reference else []
        config = _new_config(parent.platform, settings)
        if author:
            config["author"] = author
        if container_id:
            config["container"], config["container_config"] = container_id, container_config or {}
        history = History(created=config["created"], created_by=created_by, author=author, comment=comment)
        with self.ingest() as ingest:
            layer, size = ingest.create_blob(lambda out: write_diff(upper, out, leave_out))
            return ingest.add_layer(parent, config, history, layer, size, references)

    def discard_layer(self, layer: UnpackedLayer) -> None:
        """Away with what `Ingest.receive_layer` made, unless it became part of an image."""
        self._contents.layers.discard(layer)

    # --- removing -----------------------------------------------------------------------------------------

    def delete(self, image_id: str) -> list[str]:
        """Removes an image with all its names, and the content no other image has.

        Returns the digests that are gone: the image's id and the chain ids of its unpacked layers, top first.
        Whether a container still needs the image is the caller's question. Disk space comes back when
        `Snapshots.reap` runs. Raises NotFound.
        """
        with self._lock:
            image = self.forget(image_id)
            noted = self.note_removal()
            removed_layers = self._contents.collect([*reversed(image.chain_ids), *image.blobs])
            if not noted:
                self.note_removal()  # there is room now
            return [image.id, *removed_layers]

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

    def read_blob(self, blob: str) -> bytes:
        """A document. Raises NotFound."""
        return self._layout.read(blob)

    def with_compressed_layers(self, image_id: str, ingest: Ingest) -> Image:
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
            changed = replace(image, manifest=descriptor_of(data, MANIFEST), layers=tuple(manifest["layers"]))
            self._layout.sync(changed.blobs)
            changed = self.exchange(changed)
            self._contents.collect(image.blobs)
            return changed


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

"""Content on its way into the store: kept from being collected until an image refers to it."""

import io
import threading
import zlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.content.archive import Writable, write_diff
from runtime.content.catalog import Catalog
from runtime.content.compression import Readable
from runtime.content.contents import NOTHING, Contents
from runtime.content.documents import descriptor_of, encode, parse_config, parse_manifest
from runtime.content.image import Image
from runtime.content.layers import UnpackedLayer
from runtime.content.tree import data_size_bytes
from runtime.oci import digest
from runtime.oci.image import (
    CONFIG,
    LAYER_TAR,
    LAYER_TAR_GZIP,
    MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
)
from runtime.oci.reference import Reference

GZIP_LEVEL = 5


@dataclass(frozen=True, slots=True)
class NewLayer:
    """A layer no image may have yet. `descriptor` is of its blob."""

    chain_id: str
    diff_id: str
    descriptor: Descriptor


class Ingest:
    """One batch of content on its way into the store, from `ImageStore.ingest`. Its methods are thread-safe."""

    def __init__(self, contents: Contents, catalog: Catalog) -> None:
        self._contents = contents
        self._catalog = catalog
        self._lock = threading.Lock()
        self.held: set[str] = set()
        self._new: set[str] = set()  # blobs that came with this batch

    def has_blob(self, blob: str) -> bool:
        """Whether the blob is there; if so it stays until the end of the batch."""
        self._hold(blob)
        return blob in self._contents.layout

    def add_blob(
        self,
        source: Readable,
        expected: str | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> tuple[str, int]:
        """Stores `source`; returns its digest and size in bytes. Raises InvalidParameter, not the `expected`."""
        return self._contents.layout.add(source, expected, self._arrived, on_bytes)

    def is_new(self, blob: str) -> bool:
        """Whether `add_blob` stored it first."""
        return blob in self._new

    def create_blob(self, fill: Callable[[Writable], None]) -> tuple[str, int]:
        """Stores what `fill` writes; returns its digest and size in bytes."""
        return self._contents.layout.create(fill, before_visible=self._hold)

    def read_blob(self, blob: str) -> bytes:
        return self._contents.layout.read(blob)

    def blob_size(self, blob: str) -> int:
        return self._contents.layout.path(blob).stat().st_size

    def open_blob(self, blob: str) -> IO[bytes]:
        return self._contents.layout.open(blob)

    def sync(self, blobs: Iterable[str]) -> None:
        """Makes blobs survive a power cut."""
        self._contents.layout.sync(blobs)

    def receive_layer(self, source: Readable, expected: str, diff_id: str) -> UnpackedLayer:
        """Stores the blob `expected` and unpacks it while it arrives; the result is for `add_image` or `discard_layer`.

        Raises InvalidParameter when the compressed or the plain content is not what the digests say.
        """
        contents = self._contents
        received: list[UnpackedLayer] = []

        def receive(out: Writable) -> None:
            tee = _Tee(source, out)
            received.append(contents.layers.unpack(diff_id, tee))
            while tee.read(1 << 18):
                pass  # what follows the compressed data counts in the digest

        try:
            contents.layout.create(receive, expected, self._hold)
        except BaseException:
            for layer in received:
                contents.layers.discard(layer)
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
        return chain_id in self._contents.layers

    def unpack_layer(self, blob: str, diff_id: str) -> UnpackedLayer:
        """As `receive_layer`, for a blob that is here."""
        with self._contents.layout.open(blob) as source:
            return self._contents.layers.unpack(diff_id, source)

    def unpack_ahead(self, blob: str, on_bytes: Callable[[int], None]) -> UnpackedLayer:
        """As `unpack_layer`, for a blob just added of which nobody has said yet what layer it is."""
        with self._contents.layout.open(blob) as source:
            return self._contents.layers.unpack(None, _Counting(source, on_bytes), blob)

    def discard_layer(self, layer: UnpackedLayer) -> None:
        self._contents.layers.discard(layer)

    def owner_of(self, reference: Reference) -> str:
        """The id of the image that has the name, "" if none has."""
        image = self._catalog.of_reference(reference)
        return image.id if image else ""

    def add_image(
        self,
        manifest: bytes,
        references: Sequence[Reference],
        unpacked: Mapping[str, UnpackedLayer] = NOTHING,
        parent: str = "",
    ) -> Image:
        """Makes the image of `manifest` known under `references`; its blobs must be there already.

        `parent`: id of the image it was made of.

        Unpacks the layers that are neither there nor among the `unpacked` (by chain ID). Raises InvalidParameter
        when manifest, configuration and layers do not agree, NotFound when a blob is missing.
        """
        contents = self._contents
        parsed = parse_manifest(manifest)
        for blob in (parsed["config"], *parsed["layers"]):
            self._hold(blob["digest"])
            contents.layout.check_size(blob["digest"], blob["size"])
        config = parse_config(self.read_blob(parsed["config"]["digest"]))
        for chain_id in digest.chain_ids(config["rootfs"]["diff_ids"]):
            self._hold(chain_id)
        self.add_blob(io.BytesIO(manifest))
        image = contents.assemble(descriptor_of(manifest, parsed.get("mediaType", MANIFEST)), manifest, unpacked)
        contents.layout.sync(image.blobs)
        return self._catalog.add(image, references, parent)

    def take_layer(
        self, below: str, upper: Path, leave_out: Container[str] = (), latest_mtime_s: int | None = None
    ) -> NewLayer:
        """Makes the changes in an overlay's `upper` directory a layer on top of the chain ID `below` ("": none).

        `upper` is gone then. The layer survives this process after `seal` only. Other arguments: `write_diff`.
        """
        blob, size = self.create_blob(lambda out: write_diff(upper, out, leave_out, latest_mtime_s))
        chain_id = _chain_id(below, blob)
        self._hold(chain_id)
        self._contents.layers.take(chain_id, blob, upper, data_size_bytes(upper))
        return NewLayer(chain_id, blob, Descriptor(mediaType=LAYER_TAR, digest=blob, size=size))

    def layer_on(self, below: Sequence[str], layer: NewLayer) -> NewLayer:
        """The same layer on top of other chain IDs (bottom first). Blocks. Raises what `unpack_layer` does."""
        chain_id = _chain_id(below[-1] if below else "", layer.diff_id)
        if not self.has_layer(chain_id):
            unpacked = self.unpack_layer(layer.descriptor["digest"], layer.diff_id)
            try:
                self._contents.layers.adopt([((*below, chain_id), unpacked)])
            finally:
                self._contents.layers.discard(unpacked)
        return NewLayer(chain_id, layer.diff_id, layer.descriptor)

    def seal(self, chain_ids: Iterable[str]) -> None:
        """Makes what `take_layer` made survive this process, and a power cut."""
        self._contents.layers.seal(chain_ids)

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
        return self.add_image(encode(manifest), references, parent=parent.id if parent else "")

    def _arrived(self, blob: str) -> None:
        self._hold(blob)
        if blob not in self._contents.layout:
            self._new.add(blob)

    def _hold(self, content: str) -> None:
        with self._lock:
            if content not in self.held:
                self._contents.hold((content,))
                self.held.add(content)


def _chain_id(below: str, diff_id: str) -> str:
    """OCI image-spec, "Layer ChainID"; `below` is "" for the first layer."""
    return digest.of_bytes(f"{below} {diff_id}".encode()) if below else diff_id


class _Tee:
    """Passes a stream through and keeps a copy."""

    def __init__(self, source: Readable, copy: Writable) -> None:
        self._source = source
        self._copy = copy

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._copy.write(data)
        return data


class _Counting:
    """Passes a stream through, telling how many bytes have been read."""

    def __init__(self, source: Readable, on_bytes: Callable[[int], None]) -> None:
        self._source = source
        self._on_bytes = on_bytes
        self._read = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        if data:
            self._read += len(data)
            self._on_bytes(self._read)
        return data

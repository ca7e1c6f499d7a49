"""Blobs and unpacked layers, and who holds them: what nobody holds and no image has is collected."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType

from runtime.content.documents import parse_config, parse_manifest
from runtime.content.image import Image
from runtime.content.layers import LayerStore, UnpackedLayer
from runtime.content.layout import Layout
from runtime.content.trash import Trash
from runtime.errors import InvalidParameter
from runtime.oci import digest
from runtime.oci.image import Descriptor

UNPACKING_AT_ONCE = 3
NOTHING: Mapping[str, UnpackedLayer] = MappingProxyType({})


class Contents:
    """What the images of one data root consist of. Thread-safe."""

    def __init__(self, root: Path, lock: threading.RLock, held: Iterable[str]) -> None:
        """Opens or creates it. Raises Conflict when another engine has it open."""
        self._lock = lock
        self._in_use: Counter[str] = Counter(held)  # digests an Ingest holds, or a cache
        self.of_images: Callable[[], tuple[set[str], set[str]]] = lambda: (set(), set())
        self.layout = Layout(root / "content")
        try:
            self.layers = LayerStore(root / "layers", Trash(root / "trash"))
        except BaseException:
            self.layout.close()
            raise

    # --- holding what no image has ------------------------------------------------------------------------

    def hold(self, digests: Iterable[str]) -> None:
        """Keeps blobs and layers (by chain ID) from being collected; each as often as it is held."""
        with self._lock:
            self._in_use.update(digests)

    def let_go(self, digests: Iterable[str]) -> None:
        """Undoes `hold`, and deletes what nothing else holds or refers to."""
        with self._lock:
            digests = list(digests)
            self._in_use.subtract(digests)
            self._in_use += Counter()  # drops what nobody holds any more
            self.collect(digests)

    def collect_all(self) -> None:
        self.collect([*self.layout.digests(), *self.layers.chain_ids()])

    def collect(self, candidates: Iterable[str]) -> list[str]:
        """Deletes those blobs and layers that nothing refers to or holds; returns the layers' chain ids.

        One digest may name both: the diff ID of an uncompressed bottom layer is its blob and its chain ID.
        """
        blobs, layers = self.of_images()
        removed = []
        for candidate in dict.fromkeys(candidates):
            if candidate in self._in_use:
                continue
            if candidate not in blobs:
                self.layout.remove(candidate)
            if candidate not in layers and candidate in self.layers:
                self.layers.remove(candidate)
                removed.append(candidate)
        return removed

    # --- images of blobs -----------------------------------------------------------------------------------

    def assemble(
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
        config = parse_config(self.layout.read(image_id))
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
            size_bytes=sum(self.layers.size_bytes(chain_id) for chain_id in chain_ids),
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
        missing = [height for height, chain_id in enumerate(chain_ids) if chain_id not in self.layers]
        found = {height: unpacked[chain_ids[height]] for height in missing if chain_ids[height] in unpacked}

        def unpack(height: int) -> UnpackedLayer:
            with self.layout.open(layers[height]["digest"]) as blob:
                return self.layers.unpack(diff_ids[height], blob)

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
            self.layers.adopt([(chain_ids[: height + 1], (found | own)[height]) for height in missing])
        finally:
            for layer in own.values():
                self.layers.discard(layer)

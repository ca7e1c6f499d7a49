"""Pulling: layers are hashed, decompressed and unpacked while they arrive, several at the same time.

Nothing of an image is visible before all of it is: blobs and layers carry temporary names or are held by the pull's
`Ingest`, and what a killed engine leaves is cleared at its next start.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.ingest import Ingest
from runtime.content.layers import UnpackedLayer
from runtime.engine.distribution.manifests import Found, find_image, translated
from runtime.engine.distribution.progress import Feed
from runtime.engine.distribution.shared import SharedLayers, Tell
from runtime.errors import WherryError
from runtime.oci import digest
from runtime.oci.image import Descriptor, Platform, platform_matches, platform_of_host
from runtime.oci.reference import Reference
from runtime.registry.cancellation import Cancellation
from runtime.registry.client import BlobReader, Repository
from runtime.registry.hosts import RegistrySettings
from runtime.registry.transport import Credentials

LAYERS_AT_ONCE = 4


class Pull:
    """One request: an image, or all tags of a repository. `run` blocks; `cancel` may be called from anywhere."""

    def __init__(
        self,
        reference: Reference,
        platform: Platform | None,
        credentials: Credentials,
        settings: RegistrySettings,
        images: ImageStore,
        shared: SharedLayers,
        feed: Feed,
        on_pulled: Callable[[Image, Reference], None],
    ) -> None:
        """`reference` without tag and digest stands for all tags. `on_pulled`: called for each that was."""
        self._reference = reference
        self._platform = platform
        self._credentials = credentials
        self._settings = settings
        self._images = images
        self._shared = shared
        self._feed = feed
        self._on_pulled = on_pulled
        self._cancellation = Cancellation()

    def cancel(self) -> None:
        self._cancellation.cancel()
        self._shared.release(self)

    def run(self) -> None:
        """Raises NotFound, InvalidParameter, RegistryError and others in moby's words, OSError, Cancelled."""
        reference = self._reference
        try:
            with Repository(reference, self._credentials, self._settings, self._cancellation) as repository:
                one = reference.tag or reference.digest
                wanted = [reference] if one else [replace(reference, tag=tag) for tag in repository.tags()]
                changed = [self._pull_one(repository, each) for each in wanted]
                what = "Downloaded newer image for" if any(changed) else "Image is up to date for"
                self._feed.say(f"Status: {what} {reference.familiar()}")
        except WherryError as error:
            raise translated(error, reference) from error
        finally:
            self._shared.release(self)

    def _pull_one(self, repository: Repository, reference: Reference) -> bool:
        """Whether the name stands for another image now."""
        name = reference.digest or reference.tag or ""
        image, found_digest = self._current(repository, reference, name)
        if image is None:
            top = repository.manifest(name)
            found = find_image(repository, top, self._platform)
            found_digest = found.digest
        self._feed.say(f"Pulling from {reference.path}", name)
        before = self._images.of_reference(reference)
        if image is None:
            with self._images.ingest() as ingest:
                image = self._fetch(repository, ingest, found, reference)
        self._feed.say(f"Digest: {found_digest}")
        self._on_pulled(image, reference)
        return before is None or before.id != image.id

    def _current(self, repository: Repository, reference: Reference, name: str) -> tuple[Image | None, str]:
        """The image here, if the name stands for it still: one question, and none of those that registries ration."""
        if self._platform is not None:
            return None, ""
        named = self._images.of_reference(reference)
        if named is None or not platform_matches(platform_of_host(), named.platform):
            return None, ""  # it was pulled for another platform; that of the host may be there too
        if (description := repository.describe(name)) is None:
            return None, ""
        pulled = self._images.of_reference(replace(reference, tag=None, digest=description.digest))
        return (named, description.digest) if pulled and pulled.id == named.id else (None, "")

    # --- an image that is not here, or not all of it ------------------------------------------------------

    def _fetch(self, repository: Repository, ingest: Ingest, found: Found, reference: Reference) -> Image:
        layers = found.manifest["layers"]
        chain_ids = digest.chain_ids(found.config["rootfs"]["diff_ids"])
        if not ingest.has_blob(found.manifest["config"]["digest"]):
            ingest.add_blob(io.BytesIO(found.config_bytes), found.manifest["config"]["digest"])
        references = [replace(reference, tag=None, digest=found.digest)]
        references += [replace(reference, digest=None)] if reference.tag else []
        waiting: deque[_Layer] = deque()
        unpacked: dict[str, UnpackedLayer] = {}
        for height, layer in enumerate(layers):
            has_blob, has_layer = ingest.has_blob(layer["digest"]), ingest.has_layer(chain_ids[height])
            id = _short(layer["digest"])
            if has_blob and has_layer:
                self._feed.say("Already exists", id)
            else:
                self._feed.say("Pulling fs layer", id)
                diff_id = found.config["rootfs"]["diff_ids"][height]
                waiting.append(_Layer(layer, diff_id, chain_ids[height], has_blob, has_layer))
        pulled = list(waiting)
        self._fetch_layers(repository, ingest, waiting, unpacked)
        image = ingest.add_image(found.manifest_bytes, references, unpacked)
        for one in pulled:
            self._feed.say("Pull complete", _short(one.descriptor["digest"]))
        return image

    def _fetch_layers(
        self,
        repository: Repository,
        ingest: Ingest,
        waiting: deque[_Layer],
        unpacked: dict[str, UnpackedLayer],
    ) -> None:
        failures: list[Exception] = []

        def work() -> None:
            try:
                while waiting and not failures:
                    layer = waiting.popleft()
                    if (result := self._fetch_layer(repository, ingest, layer)) is not None:
                        unpacked[layer.chain_id] = result
            except IndexError:
                pass  # another worker took the last
            except Exception as error:  # noqa: BLE001 (raised by whoever waits for the threads)
                failures.append(error)
                self._shared.release(self)  # the others need not go on

        threads = [
            threading.Thread(target=work, name="pull-layer", daemon=True)
            for _ in range(min(LAYERS_AT_ONCE, len(waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _fetch_layer(self, repository: Repository, ingest: Ingest, layer: _Layer) -> UnpackedLayer | None:
        id = _short(layer.descriptor["digest"])

        def tell(status: str, current_bytes: int, total_bytes: int) -> None:
            if total_bytes:
                self._feed.count(status, id, current_bytes, total_bytes)
            else:
                self._feed.say(status, id)

        def fetch(cancellation: Cancellation, tell: Tell) -> UnpackedLayer | None:
            if layer.has_blob:
                return ingest.unpack_layer(layer.descriptor["digest"], layer.diff_id)
            return _download(repository, ingest, layer, cancellation, tell)

        key = (layer.descriptor["digest"], layer.chain_id)
        return self._shared.fetch(key, self, self._cancellation, tell, fetch)


class _Layer:
    def __init__(self, descriptor: Descriptor, diff_id: str, chain_id: str, has_blob: bool, has_layer: bool) -> None:
        self.descriptor = descriptor
        self.diff_id = diff_id
        self.chain_id = chain_id
        self.has_blob = has_blob
        self.has_layer = has_layer


def _download(
    repository: Repository, ingest: Ingest, layer: _Layer, cancellation: Cancellation, tell: Tell
) -> UnpackedLayer | None:
    blob, size_bytes = layer.descriptor["digest"], layer.descriptor["size"]

    def on_retry(delay_s: float) -> None:
        seconds = max(1, round(delay_s))
        tell(f"Retrying in {seconds} second{'s' if seconds > 1 else ''}", 0, 0)

    with ExitStack() as stack:
        reader = BlobReader(
            repository, blob, size_bytes, cancellation, lambda done: tell("Downloading", done, size_bytes), on_retry
        )
        stack.callback(reader.close)
        if layer.has_layer:  # of an image that came with its layers in another compression
            ingest.add_blob(reader, blob)
            result = None
        else:
            result = ingest.receive_layer(reader, blob, layer.diff_id)
    tell("Download complete", 0, 0)
    return result


def _short(blob: str) -> str:
    return digest.hex_of(blob)[:12]

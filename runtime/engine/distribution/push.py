"""Pushing: what the registry has is left out, what a neighbour there has is mounted, the rest goes up in parallel.

Blobs go as they are stored, so a pulled image is pushed with the digest it came with.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.ingest import Ingest
from runtime.engine.distribution.manifests import refuse_foreign
from runtime.engine.distribution.progress import Feed
from runtime.errors import NotFound, SystemFault
from runtime.oci import digest
from runtime.oci.image import Descriptor
from runtime.oci.reference import Reference, parse_name
from runtime.registry.cancellation import Cancellation
from runtime.registry.client import Repository
from runtime.registry.hosts import RegistrySettings
from runtime.registry.transport import Credentials

BLOBS_AT_ONCE = 4


@dataclass(frozen=True)
class _Blob:
    """`id`: twelve digits of the layer's diff ID, "" for a configuration, of which nothing is told."""

    descriptor: Descriptor
    id: str


class Push:
    """One request: a tag, or all tags of a repository. `run` blocks; `cancel` may be called from anywhere."""

    def __init__(
        self, reference: Reference, credentials: Credentials, settings: RegistrySettings, images: ImageStore, feed: Feed
    ) -> None:
        self._reference = reference
        self._credentials = credentials
        self._settings = settings
        self._images = images
        self._feed = feed
        self._cancellation = Cancellation()
        self._done: set[str] = set()  # blobs known to be there

    def cancel(self) -> None:
        self._cancellation.cancel()

    def run(self) -> None:
        """Raises NotFound, InvalidParameter (a foreign layer), RegistryError, Unauthorized, OSError, Cancelled."""
        reference = self._reference
        self._feed.say(f"The push refers to repository [{reference.name}]")
        tagged = self._images.tags_of(reference)
        if not tagged:
            raise SystemFault(f"An image does not exist locally with the tag: {reference.familiar_name()}")
        if reference.tag:
            if reference not in tagged:
                raise NotFound(f"tag does not exist: {reference.familiar()}")
            tagged = {reference: tagged[reference]}
        with Repository(reference, self._credentials, self._settings, self._cancellation, pushing=True) as repository:
            for name, image in tagged.items():
                self._push_one(repository, name, image)

    def _push_one(self, repository: Repository, reference: Reference, image: Image) -> None:
        with self._images.ingest() as ingest:
            image = self._images.with_compressed_layers(image.id, ingest)
            for layer in image.layers:
                refuse_foreign(layer, "pushed")
            blobs = self._blobs_of(image)
            for blob in blobs:
                ingest.has_blob(blob.descriptor["digest"])  # held while it is read
                if blob.id:
                    self._feed.say("Preparing", blob.id)
            self._push_blobs(repository, ingest, blobs)
            manifest, descriptor = ingest.read_blob(image.manifest_digest), image.manifest
            repository.put_manifest(reference.tag or descriptor["digest"], manifest, descriptor["mediaType"])
        self._images.add_digest(image.id, replace(reference, tag=None, digest=descriptor["digest"]))
        self._feed.say(f"{reference.tag}: digest: {descriptor['digest']} size: {descriptor['size']}")
        pushed = {"Tag": reference.tag, "Digest": descriptor["digest"], "Size": descriptor["size"]}
        self._feed.say("", aux=pushed)

    def _blobs_of(self, image: Image) -> list[_Blob]:
        """Top first as Docker, each once, the configuration last."""
        found: dict[str, _Blob] = {}
        for layer, diff_id in reversed(list(zip(image.layers, image.config["rootfs"]["diff_ids"], strict=True))):
            found.setdefault(layer["digest"], _Blob(layer, digest.hex_of(diff_id)[:12]))
        size_bytes = len(self._images.read_blob(image.id))
        config = Descriptor(mediaType="", digest=image.id, size=size_bytes)
        return [*found.values(), _Blob(config, "")]

    def _push_blobs(self, repository: Repository, ingest: Ingest, blobs: Sequence[_Blob]) -> None:
        waiting, failures = deque(blobs), list[Exception]()

        def work() -> None:
            try:
                while waiting and not failures:
                    self._push_blob(repository, ingest, waiting.popleft())
            except IndexError:
                pass  # another worker took the last
            except Exception as error:  # noqa: BLE001 (raised below)
                failures.append(error)

        threads = [
            threading.Thread(target=work, name="push-blob", daemon=True) for _ in range(min(BLOBS_AT_ONCE, len(blobs)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _push_blob(self, repository: Repository, ingest: Ingest, blob: _Blob) -> None:
        digest_, size_bytes = blob.descriptor["digest"], blob.descriptor["size"]
        if digest_ in self._done or repository.has_blob(digest_):
            self._tell(blob, "Layer already exists")
            self._done.add(digest_)
            return
        sources = self._images.repositories_with(digest_, self._reference.domain)
        source = next((path for path in sources if path != self._reference.path), None)
        location = repository.mount(digest_, source) if source and blob.id else repository.begin_upload()
        if location is None:
            self._tell(blob, f"Mounted from {_familiar(self._reference.domain, source or '')}")
            self._done.add(digest_)
            return
        first = location

        def upload() -> None:
            nonlocal first
            where, first = first or repository.begin_upload(), ""  # an upload that failed is begun anew
            with ingest.open_blob(digest_) as file:
                repository.upload(where, digest_, size_bytes, file, count)

        def count(done_bytes: int) -> None:
            if blob.id:
                self._feed.count("Pushing", blob.id, done_bytes, size_bytes)

        repository.retrying(upload)
        self._tell(blob, "Pushed")
        self._done.add(digest_)

    def _tell(self, blob: _Blob, status: str) -> None:
        if blob.id:
            self._feed.say(status, blob.id)


def _familiar(domain: str, path: str) -> str:
    return parse_name(f"{domain}/{path}").familiar_name().removeprefix(f"{domain}/")

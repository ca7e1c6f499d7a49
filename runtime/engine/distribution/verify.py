"""Verifying images: what is damaged or missing is told, and repaired from what is sound: blob, layer or registry."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.content.documents import parse_manifest
from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.ingest import Ingest
from runtime.content.layers import UnpackedLayer
from runtime.engine.distribution.progress import Feed
from runtime.errors import Conflict, WherryError
from runtime.oci import digest
from runtime.oci.reference import Reference
from runtime.registry.cancellation import Cancellation
from runtime.registry.client import BlobReader, Repository
from runtime.registry.hosts import RegistrySettings
from runtime.registry.transport import Credentials

MANIFEST, CONFIGURATION, BLOB, LAYER = "manifest", "configuration", "layer blob", "unpacked layer"
OnLoop = Callable[[Callable[[], None]], None]
"""Runs something on the event loop, where containers do not start meanwhile; raises what it raises."""


@dataclass(frozen=True)
class _Part:
    """A blob (`size_bytes` 0: not known), or with the kind LAYER an unpacked layer, by chain ID."""

    kind: str
    digest: str
    size_bytes: int = 0
    height: int = 0


class Verify:
    """One request. `run` blocks; `cancel` may be called from anywhere."""

    def __init__(
        self,
        images: ImageStore,
        chosen: Sequence[Image],
        repair: bool,
        credentials: Callable[[str], Credentials],
        settings: RegistrySettings,
        feed: Feed,
        running_on: Callable[[str], str],
        on_loop: OnLoop,
    ) -> None:
        """`running_on(chain_id)`: the name of a running container that has the layer, "" for none."""
        self._images = images
        self._chosen = chosen
        self._repair = repair
        self._credentials = credentials
        self._settings = settings
        self._feed = feed
        self._running_on = running_on
        self._on_loop = on_loop
        self._verifier = images.verifier()
        self._cancellation = Cancellation()
        self._seen: set[tuple[str, str]] = set()
        self._unsound: set[str] = set()  # blobs that stayed damaged
        self._damaged = self._repaired = self._bytes = 0

    def cancel(self) -> None:
        self._cancellation.cancel()

    def run(self) -> None:
        """Raises OSError, Cancelled."""
        for image in self._chosen:
            self._feed.say("Verifying", _shown(image))
            with self._images.ingest() as ingest:
                self._verify(image, ingest)
        totals = {"Images": len(self._chosen), "Parts": len(self._seen), "Bytes": self._bytes}
        self._feed.say("", aux={**totals, "Damaged": self._damaged, "Repaired": self._repaired})

    def _verify(self, image: Image, ingest: Ingest) -> None:
        for part in _parts(image, ingest):
            self._cancellation.check()
            (ingest.has_layer if part.kind == LAYER else ingest.has_blob)(part.digest)  # held from here on
            if (part.kind, part.digest) in self._seen:
                continue
            self._seen.add((part.kind, part.digest))
            if part.kind == LAYER:
                self._verify_layer(image, part)
            else:
                self._verify_blob(image, ingest, part)

    def _verify_blob(self, image: Image, ingest: Ingest, part: _Part) -> None:
        short = digest.hex_of(part.digest)[:12]
        size_bytes = part.size_bytes

        def count(done_bytes: int) -> None:
            self._cancellation.check()
            self._feed.count("Verifying", short, done_bytes, size_bytes)

        problem = self._verifier.damage_of_blob(part.digest, size_bytes, count)
        self._bytes += size_bytes
        if not problem:
            return
        remedy = self._restore(image, ingest, part) if self._repair else "not repaired, for that was not asked for"
        if remedy:
            self._unsound.add(part.digest)
        self._report(image, part, problem, remedy)

    def _restore(self, image: Image, ingest: Ingest, part: _Part) -> str:
        """Puts a sound blob in its place; what is to be done where that is not possible."""
        if part.kind == BLOB and self._verifier.make_blob_again(part.digest, image.chain_ids[part.height]):
            return ""
        names = self._images.references_of(image.id)
        sources = list({name.name: name for name in names if name.digest}.values())
        if not sources:
            return "it came from no registry: load, import or build the image again"
        failure = ""
        for source in sources:
            try:
                self._fetch(ingest, source, part)
                return ""
            except WherryError as error:
                self._cancellation.check()
                failure = f"{source.familiar_name()} does not have it: {error}"
        return failure

    def _fetch(self, ingest: Ingest, source: Reference, part: _Part) -> None:
        short = digest.hex_of(part.digest)[:12]
        credentials = self._credentials(source.domain)
        with Repository(source, credentials, self._settings, self._cancellation) as repository:
            if part.kind == MANIFEST:
                ingest.add_blob(io.BytesIO(repository.manifest(part.digest).data), part.digest)
            elif part.kind == CONFIGURATION:
                ingest.add_blob(io.BytesIO(repository.document(part.digest, part.size_bytes)), part.digest)
            else:
                reader = BlobReader(
                    repository,
                    part.digest,
                    part.size_bytes,
                    self._cancellation,
                    lambda done: self._feed.count("Downloading", short, done, part.size_bytes),
                    lambda delay_s: self._feed.say(f"Retrying in {max(1, round(delay_s))} seconds", short),
                )
                try:
                    ingest.add_blob(reader, part.digest)
                finally:
                    reader.close()
        ingest.sync((part.digest,))

    def _verify_layer(self, image: Image, part: _Part) -> None:
        blob = image.layers[part.height]["digest"]
        if blob in self._unsound:
            return  # nothing to compare it with
        chain_ids, diff_id = image.chain_ids[: part.height + 1], image.config["rootfs"]["diff_ids"][part.height]
        try:
            problem, sound = self._verifier.damage_of_layer(chain_ids, diff_id, blob)
        except WherryError as error:  # the image contradicts itself
            self._report(image, part, str(error), "pull, load or build the image again")
            return
        if sound is None:
            return
        remedy = "not repaired, for that was not asked for"
        try:
            if self._repair:
                self._put_in_place(part.digest, sound)
                remedy = ""
        except Conflict as error:
            remedy = str(error)
        finally:
            self._verifier.discard(sound)
        self._report(image, part, problem, remedy)

    def _put_in_place(self, chain_id: str, sound: UnpackedLayer) -> None:
        """Raises Conflict when a running container has the layer."""

        def replace() -> None:
            if name := self._running_on(chain_id):
                raise Conflict(f"the container {name} runs on it: stop it and repair again")
            self._verifier.replace(chain_id, sound)

        self._on_loop(replace)

    def _report(self, image: Image, part: _Part, problem: str, remedy: str) -> None:
        self._damaged += 1
        self._repaired += not remedy
        found: dict[str, Any] = {"Image": image.id, "Name": _shown(image), "Kind": part.kind, "Digest": part.digest}
        self._feed.say("", aux={**found, "Problem": problem, "Repaired": not remedy, "Remedy": remedy})


def _shown(image: Image) -> str:
    return next(iter((*image.references, *image.repo_digests)), digest.hex_of(image.id)[:12])


def _parts(image: Image, ingest: Ingest) -> Iterator[_Part]:
    """The manifest first, which is to be sound when the next is asked for."""
    yield _Part(MANIFEST, image.manifest_digest, image.manifest["size"])
    try:
        size_bytes = parse_manifest(ingest.read_blob(image.manifest_digest))["config"]["size"]
    except WherryError:
        size_bytes = 0
    yield _Part(CONFIGURATION, image.id, size_bytes)
    for height, layer in enumerate(image.layers):
        yield _Part(BLOB, layer["digest"], layer["size"], height)
    for height, chain_id in enumerate(image.chain_ids):
        yield _Part(LAYER, chain_id, 0, height)

"""Which images there are and what they are called: found in memory, kept in the index of an OCI image layout."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from runtime.content.image import Image
from runtime.content.layout import Layout
from runtime.content.save import index_of
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci import digest
from runtime.oci.image import (
    ANNOTATION_IMAGE_NAME,
    ANNOTATION_PARENT,
    ANNOTATION_REMOVED,
    ANNOTATION_TAGGED_AT,
    Descriptor,
)
from runtime.oci.reference import Reference, parse, parse_name

log = logging.getLogger(__name__)

_ID_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class Catalog:
    """The images of one store. Thread-safe; finding answers from memory, changing writes the index."""

    def __init__(self, lock: threading.RLock, layout: Layout) -> None:
        """`lock` is held while images come and go, also by who collects what none of them has."""
        self._lock = lock
        self._layout = layout
        self._images: dict[str, Image] = {}
        self._references: dict[Reference, str] = {}  # with a tag or a digest, never both; to an image's id

    # --- finding ------------------------------------------------------------------------------------------

    def all(self) -> list[Image]:
        with self._lock:
            return [image for image in self._images.values() if not image.removed]

    def ids(self) -> list[str]:
        """Of all images, those `removed` included."""
        with self._lock:
            return [*self._images]

    def removed(self, image_id: str) -> Image | None:
        """The image with this id if it is kept for its containers only."""
        image = self._images.get(image_id)
        return image if image and image.removed else None

    def kept(self, image_id: str) -> Image:
        """The image with exactly this id, removed or not. Raises NotFound."""
        try:
            return self._images[image_id]
        except KeyError:
            raise NotFound(f"No such image: {image_id}") from None

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
        return full if full in self._images and not self._images[full].removed else None

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
        matches = [image_id for image_id in self._images if image_id.startswith(full) and self._find_id(image_id)]
        if len(matches) > 1:
            raise InvalidParameter(f"{name} is the beginning of {len(matches)} image ids; give more of it")
        return matches[0] if matches else None

    def parents(self) -> set[str]:
        """Ids of the images that others were made of here."""
        with self._lock:
            return {image.parent for image in self.all()}

    def references_of(self, image_id: str) -> list[Reference]:
        """Every name of an image: tags first, in the order of their text."""
        with self._lock:
            found = [name for name, owner in self._references.items() if owner == image_id]
        return sorted(found, key=lambda name: (name.tag is None, str(name)))

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

    def content(self) -> tuple[set[str], set[str]]:
        """What images consist of: blobs, and layers by chain ID."""
        with self._lock:
            blobs = {blob for image in self._images.values() for blob in image.blobs}
            return blobs, {chain_id for image in self._images.values() for chain_id in image.chain_ids}

    # --- changing -----------------------------------------------------------------------------------------

    def add(self, image: Image, references: Sequence[Reference], parent: str = "") -> Image:
        """Makes a complete image known. An image already there keeps the manifest it has."""
        with self._addition():
            known = self._images.setdefault(image.id, image)
            if known.removed:
                known = self._images[image.id] = replace(known, removed=False)
            if parent and not known.parent and parent != image.id:
                self._images[image.id] = replace(known, parent=parent)
            for reference in references:
                self._references[_stored(reference)] = image.id
            if references:
                self._note_tagged(image.id)
        return self._images[image.id]

    def _note_tagged(self, image_id: str) -> None:
        self._images[image_id] = replace(self._images[image_id], tagged_at=_now())

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
            self.note_removal()
            return self._images[image_id]

    def add_digest(self, image_id: str, reference: Reference) -> None:
        """Notes the digest an image has in a repository it was pushed to. Raises NotFound."""
        with self._lock:
            self._references[_stored(reference)] = self._find(image_id)
            self.write_index()

    def forget(self, image_id: str) -> Image:
        """Takes the image with exactly this id away with all its names; its content stays. Raises NotFound."""
        with self._lock:
            image = self.kept(image_id)
            del self._images[image_id]
            self._references = {name: owner for name, owner in self._references.items() if owner != image.id}
            return image

    def remove_for_its_containers(self, image_id: str) -> None:
        """Makes a nameless image a `removed` one, until it is deleted or added again. Raises NotFound."""
        with self._lock:
            self._images[image_id] = replace(self.kept(image_id), removed=True)
            self.note_removal()

    def exchange(self, image: Image) -> Image:
        """Gives an image another manifest: same configuration, layers kept in another way. Raises NotFound."""
        with self._lock:
            current = self._images[self._find(image.id)]
            self._images[image.id] = replace(current, manifest=image.manifest, layers=image.layers)
            self.write_index()
            return self._images[image.id]

    # --- the index on disk --------------------------------------------------------------------------------

    def write_index(self) -> None:
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
                self.write_index()
            except BaseException:
                self._images, self._references = before
                raise

    def note_removal(self) -> bool:
        """A full disk is no reason to keep what was removed; the index is then right after the next change."""
        try:
            self.write_index()
        except OSError as error:
            log.warning("the index of images is not up to date on disk: %s", error)
            return False
        return True

    def read_index(self, assemble: Callable[[Descriptor], Image]) -> None:
        """Fills the memory from the index; `assemble` makes an image of its manifest's descriptor.

        An image that cannot be read is left out and said so.
        """
        for descriptor in self._layout.read_index()["manifests"]:
            try:
                image = assemble(descriptor)
                annotations = descriptor.get("annotations") or {}
                tagged_at, parent = annotations.get(ANNOTATION_TAGGED_AT, ""), annotations.get(ANNOTATION_PARENT, "")
                removed = ANNOTATION_REMOVED in annotations
                image = replace(image, tagged_at=tagged_at, parent=parent, removed=removed)
                self._images.setdefault(image.id, image)
                name = annotations.get(ANNOTATION_IMAGE_NAME)
                if name:
                    self._references[_stored(parse(name))] = image.id
            except (WherryError, OSError) as error:
                log.warning("the image %s cannot be used: %s; pull or load it again", descriptor["digest"], error)
        if self._images:
            self.note_removal()


def _stored(reference: Reference) -> Reference:
    """A digest names an image by itself; a tag beside it is only a remark."""
    return replace(reference, tag=None) if reference.digest else reference


def _now() -> str:
    """RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")

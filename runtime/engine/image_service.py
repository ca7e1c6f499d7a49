"""What an engine adds to its store of images: names, removal, history and sizes, with Docker's rules, words and events.

The rules of removal are those of moby's daemon/images (ImageDelete); a container keeps the image it was made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.engine.containers import ContainerService
from runtime.engine.events import Event, EventBus
from runtime.errors import Conflict, InvalidParameter
from runtime.oci.image import History
from runtime.oci.reference import Reference, parse, parse_name

Removed = list[tuple[str, str]]
"""What was done, "Untagged" or "Deleted", and to which name, image or layer."""


class ImageService:
    def __init__(self, images: ImageStore, containers: ContainerService, events: EventBus) -> None:
        self._images = images
        self._containers = containers
        self._events = events

    def publish(self, action: str, image: Image, name: str) -> None:
        """An image's event bears its labels."""
        labels = (image.config.get("config") or {}).get("Labels") or {}
        self._events.publish(Event("image", action, image.id, {**labels, "name": name}))

    # --- names

    def tag(self, name: str, repository: str, tag: str) -> None:
        """Raises NotFound, InvalidParameter."""
        image = self._images.get(name)
        reference = parse_name(repository)
        if reference.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        if tag:
            reference = parse_name(f"{replace(reference, tag=None).familiar()}:{tag}")
        reference = reference.with_default_tag()
        self._images.tag(image.id, str(reference))
        self.publish("tag", image, reference.familiar())

    # --- removal

    def remove(self, name: str, force: bool, prune: bool = True) -> Removed:
        """Raises NotFound, Conflict when it is in use, others were made of it, or it is named in several repositories.

        `prune`: what it was made of goes as well, if nobody wants it.
        """
        image = self._images.get(name)
        references = self._images.references_of(image.id)
        done: Removed = []
        if _is_id(image, name):
            if _is_single(references):
                self._refuse_users(image, force)
                done += self._untag(image, references)
            elif not force:
                self._refuse_users(image, force=True)
                raise _conflict(image, "image is referenced in multiple repositories", hard=False)
            self._refuse_users(image, force)
            done += self._untag(image, self._images.references_of(image.id))
            return done + self._delete(image, prune, force)
        reference = parse(name)
        users = self._containers.users_of_image(image)
        if not force and _is_single(references) and users:
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - container '
                f"{users[0].id[:12]} is using its referenced image {image.id[7:19]}"
            )
        done += self._untag(image, [replace(reference, tag=None) if reference.digest else reference])
        rest = self._images.references_of(image.id)
        same_repository = [other for other in rest if other.name == reference.name]
        if not reference.digest and not any(other.tag for other in same_repository):
            done += self._untag(image, same_repository)
            rest = [other for other in rest if other not in same_repository]
        running = any(user.state.is_up for user in users)
        wanted = rest or running or (users and not force) or image.id in self._images.parents()
        return done if wanted else done + self._delete(image, prune, force)

    def _untag(self, image: Image, references: list[Reference]) -> Removed:
        done: Removed = []
        for reference in references:
            self._images.untag(str(reference))
            done.append(("Untagged", reference.familiar()))
            self.publish("untag", image, image.id)
        return done

    def _delete(self, image: Image, prune: bool, force: bool = False) -> Removed:
        if self._containers.users_of_image(image):
            if not force:
                return []
            self._images.remove_for_its_containers(image.id)  # those that are stopped may start again
            gone = [image.id]
        else:
            gone = self._images.delete(image.id)
        self.publish("delete", image, image.id)
        done = [("Deleted", digest) for digest in gone]
        parents = [other for other in self._images.all() if prune and other.id == image.parent]
        for parent in parents:
            if not self._images.references_of(parent.id) and parent.id not in self._images.parents():
                done += self._delete(parent, prune)
        return done

    def _refuse_users(self, image: Image, force: bool) -> None:
        if image.id in self._images.parents():
            raise _conflict(image, "image has dependent child images", hard=True)
        users = self._containers.users_of_image(image)
        for user in users:
            if user.state.is_up:
                raise _conflict(image, f"image is being used by running container {user.id[:12]}", hard=True)
        if users and not force:
            raise _conflict(image, f"image is being used by stopped container {users[0].id[:12]}", hard=False)

    def prune(self, wanted: Callable[[Image], bool]) -> tuple[Removed, int]:
        """Remove the wanted among the images no container has; `remove`'s account of it, and the bytes freed."""
        used = {container.image_id for container in self._containers.all()}
        sizes = self._images.layer_sizes()
        done: Removed = []
        chosen = {image.id for image in self._images.all() if image.id not in used and wanted(image)}
        while leaves := chosen & {image.id for image in self._images.all()} - self._images.parents():
            for image_id in sorted(leaves):
                done += self.remove(image_id, force=True, prune=False)
        freed = sum(sizes.get(which, 0) for what, which in done if what == "Deleted")
        self._events.publish(Event("image", "prune", "", {"reclaimed": str(freed)}))
        return done, freed

    # --- looking

    def running_on(self, chain_id: str) -> str:
        """The name of a running container whose image has the layer, "" if there is none."""
        for image in self._images.all():
            if chain_id in image.chain_ids:
                for user in self._containers.users_of_image(image):
                    if user.state.is_up:
                        return user.name
        return ""

    def shared_sizes(self) -> dict[str, int]:
        """By image: the bytes of its layers that other images have too."""
        images, sizes = self._images.all(), self._images.layer_sizes()
        owners = Counter(chain_id for image in images for chain_id in set(image.chain_ids))
        return {
            image.id: sum(sizes.get(chain_id, 0) for chain_id in set(image.chain_ids) if owners[chain_id] > 1)
            for image in images
        }

    def history(self, image: Image) -> list[tuple[History, int, Image | None]]:
        """How it came about, the latest first, each with the bytes of the layer it made (0: none), and the image.

        As moby: the steps before the last are said to have made its parents, one each.
        """
        sizes = self._images.layer_sizes()
        layers = iter(image.chain_ids)
        found = []
        for entry in image.config.get("history") or []:
            chain_id = None if entry.get("empty_layer") else next(layers, None)
            found.append((entry, sizes.get(chain_id, 0) if chain_id else 0))
        made = self._lineage(image)
        return [(entry, size, next(made, None)) for entry, size in reversed(found)]

    def _lineage(self, image: Image) -> Iterator[Image]:
        """The image and those it was made of here."""
        by_id = {known.id: known for known in self._images.all()}
        found: Image | None = image
        while found:
            yield found
            found = by_id.pop(found.parent, None)


def _is_id(image: Image, name: str) -> bool:
    return image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))


def _is_single(references: list[Reference]) -> bool:
    """Whether there is one tag at most, with digests in its repository only (moby's isSingleReference)."""
    tags = [reference for reference in references if not reference.digest]
    repositories = {reference.name for reference in references}
    return len(references) <= 1 or (len(tags) <= 1 and len(repositories) == 1)


def _conflict(image: Image, why: str, hard: bool) -> Conflict:
    how = "cannot be forced" if hard else "must be forced"
    return Conflict(f"conflict: unable to delete {image.id[7:19]} ({how}) - {why}")

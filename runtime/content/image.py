"""What the store knows of an image, as its callers see it."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.oci.image import Descriptor, ImageConfig, Platform, platform_of


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform. A value: tagging makes the store hold another one.

    `id`: digest of the configuration. `references`: `name:tag` as a person writes them; `repo_digests`:
    `name@digest` it was pulled by. `config`: the whole OCI image configuration. `size_bytes`: data of all
    unpacked layers. `created`, `tagged_at`: RFC 3339, "" if nobody said. `chain_ids`, `layers`: bottom first.
    `parent`: id of the image it was made of here, "" for one that came from elsewhere. `removed`: it has no name, is
    not found and not listed any more, and is kept for the containers made from it only.
    """

    id: str
    references: tuple[str, ...]
    repo_digests: tuple[str, ...]
    config: ImageConfig
    size_bytes: int
    created: str
    architecture: str
    os: str
    chain_ids: tuple[str, ...]
    manifest: Descriptor
    layers: tuple[Descriptor, ...]
    tagged_at: str = ""
    parent: str = ""
    removed: bool = False

    @property
    def platform(self) -> Platform:
        return platform_of(self.config)

    @property
    def manifest_digest(self) -> str:
        return self.manifest["digest"]

    @property
    def blobs(self) -> tuple[str, ...]:
        """Every blob the image consists of."""
        return (self.manifest_digest, self.id, *(layer["digest"] for layer in self.layers))


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image of a loaded archive, the references the archive gave it, and the ids of images that had those tags."""

    image: Image
    references: tuple[str, ...]
    taken_from: Mapping[str, str]

"""What the store knows of an image, as its callers see it."""

from dataclasses import dataclass

from runtime.oci.image import Descriptor, ImageConfig, Platform


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform. A value: tagging makes the store hold another one.

    `id`: digest of the configuration. `references`: `name:tag` as a person writes them; `repo_digests`:
    `name@digest` it was pulled by. `config`: the whole OCI image configuration. `size_bytes`: data of all
    unpacked layers. `created`, `tagged_at`: RFC 3339, "" if nobody said. `chain_ids`, `layers`: bottom first.
    `parent`: id of the image it was made of here, "" for one that came from elsewhere.
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

    @property
    def platform(self) -> Platform:
        platform = Platform(os=self.os, architecture=self.architecture)
        if variant := self.config.get("variant"):
            platform["variant"] = variant
        return platform

    @property
    def manifest_digest(self) -> str:
        return self.manifest["digest"]

    @property
    def blobs(self) -> tuple[str, ...]:
        """Every blob the image consists of."""
        return (self.manifest_digest, self.id, *(layer["digest"] for layer in self.layers))


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image of a loaded archive and the references the archive gave it."""

    image: Image
    references: tuple[str, ...]

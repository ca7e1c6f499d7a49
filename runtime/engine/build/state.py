"""An image in the making: what a stage has come to after each step."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

from runtime.content.documents import descriptor_of, encode
from runtime.content.image import Image
from runtime.content.ingest import NewLayer
from runtime.oci import digest
from runtime.oci.image import (
    CONFIG,
    MANIFEST,
    ContainerDefaults,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    platform_of_host,
)

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class StageState:
    """`settings` is the container part of the image's configuration. `chain_ids`, `layers`: bottom first.

    `args` are the values of the ARGs declared so far; `cmd_is_own` tells a CMD of this stage from an inherited one.
    """

    architecture: str
    os: str
    variant: str = ""
    settings: ContainerDefaults = field(default_factory=lambda: ContainerDefaults())
    history: list[History] = field(default_factory=list)
    layers: list[Descriptor] = field(default_factory=list)
    diff_ids: list[str] = field(default_factory=list)
    chain_ids: tuple[str, ...] = ()
    created: str = ""
    author: str = ""
    args: dict[str, str] = field(default_factory=dict)
    cmd_is_own: bool = False
    base_id: str = ""
    steps: int = 0  # on top of `base_id`

    @classmethod
    def of_image(cls, image: Image) -> StageState:
        config = image.config
        return cls(
            config["architecture"],
            config["os"],
            config.get("variant", ""),
            copy.deepcopy(config.get("config") or ContainerDefaults()),
            [*(config.get("history") or [])],
            list(image.layers),
            list(config["rootfs"]["diff_ids"]),
            image.chain_ids,
            image.created,
            config.get("author", ""),
            base_id=image.id,
        )

    @classmethod
    def scratch(cls) -> StageState:
        platform = platform_of_host()
        return cls(platform["architecture"], platform["os"], platform.get("variant", ""))

    def child(self) -> StageState:
        """The beginning of a stage that is built FROM this one: ARGs end with their stage."""
        return replace(
            self,
            settings=copy.deepcopy(self.settings),
            history=list(self.history),
            layers=list(self.layers),
            diff_ids=list(self.diff_ids),
            args={},
            cmd_is_own=False,
        )

    # --- what steps read

    @property
    def shell(self) -> list[str]:
        return self.settings.get("Shell") or list(DEFAULT_SHELL)

    @property
    def working_dir(self) -> str:
        return self.settings.get("WorkingDir") or "/"

    @property
    def env(self) -> dict[str, str]:
        pairs = (entry.partition("=") for entry in self.settings.get("Env") or [])
        return {name: value for name, _, value in pairs}

    @property
    def variables(self) -> dict[str, str]:
        """What `$name` stands for: ENV wins over ARG."""
        return {**self.args, **self.env}

    def set_env(self, name: str, value: str) -> None:
        entries = list(self.settings.get("Env") or [])
        for number, entry in enumerate(entries):
            if entry.partition("=")[0] == name:
                entries[number] = f"{name}={value}"
                break
        else:
            entries.append(f"{name}={value}")
        self.settings["Env"] = entries

    # --- what steps leave

    def add(self, history: History, layer: NewLayer | None) -> None:
        """One step is done."""
        self.steps += 1
        self.created = history["created"]
        if layer:
            self.layers.append(layer.descriptor)
            self.diff_ids.append(layer.diff_id)
            self.chain_ids = (*self.chain_ids, layer.chain_id)
            self.history.append(history)
        else:
            self.history.append(cast(History, {**history, "empty_layer": True}))

    def config(self) -> ImageConfig:
        config = ImageConfig(
            architecture=self.architecture,
            os=self.os,
            config=self.settings,
            created=self.created,
            history=self.history,
            rootfs=RootFS(type="layers", diff_ids=self.diff_ids),
        )
        if self.variant:
            config["variant"] = self.variant
        if self.author:
            config["author"] = self.author
        return config

    @property
    def image_id(self) -> str:
        """The id of the image this would be: of the base image while nothing was added, "" for nothing at all."""
        if not self.steps:
            return self.base_id
        return digest.of_bytes(encode(self.config()))

    def documents(self) -> tuple[bytes, bytes]:
        """Manifest and configuration."""
        config = encode(self.config())
        manifest = Manifest(
            schemaVersion=2, mediaType=MANIFEST, config=descriptor_of(config, CONFIG), layers=self.layers
        )
        return encode(manifest), config


def timestamp(epoch_s: int | None) -> str:
    """Now, or the SOURCE_DATE_EPOCH, as configurations have it."""
    moment = datetime.now(UTC) if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)
    return moment.isoformat().replace("+00:00", "Z")

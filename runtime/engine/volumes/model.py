"""What a volume is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANONYMOUS_LABEL = "com.docker.volume.anonymous"  # Docker's: `volume prune` and clients look for it


@dataclass(frozen=True)
class VolumeRequest:
    """A volume to be found or made; an empty name makes an anonymous one."""

    name: str = ""
    driver: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Volume:
    """`path` is the directory containers see, `options` what is mounted on it (see `local_options`)."""

    name: str
    path: Path
    created_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs_mount(self) -> bool:
        return bool(self.options.get("type") or self.options.get("device"))

    def to_document(self) -> dict[str, Any]:
        return {
            "created_ns": self.created_ns,
            "labels": dict(self.labels),
            "anonymous": self.anonymous,
            "options": dict(self.options),
        }

    @classmethod
    def from_document(cls, name: str, path: Path, document: Mapping[str, Any]) -> Volume:
        """`path` is the volume's directory, which holds what containers see as `_data`."""
        return cls(
            name,
            path / "_data",
            document["created_ns"],
            document["labels"],
            document["anonymous"],
            document.get("options") or {},
        )

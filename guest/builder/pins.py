"""The parts an image is made of, pinned as data in pins.json.

Schema: ``{"schema": 1, "parts": [{"kind", "name", "version", "arch", "sha256"}]}``
with ``kind`` either ``wheel`` (PyPI) or ``deb`` (Debian), one entry per part and architecture.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

PINS_FILE = Path(__file__).with_name("pins.json")
SCHEMA = 1


@dataclass(frozen=True, order=True)
class Part:
    """One file to fetch. ``arch`` is an Architecture's name; ``sha256`` is of the .whl or .deb file, in hex."""

    kind: str
    name: str
    arch: str
    version: str
    sha256: str


def load_pins(path: Path = PINS_FILE) -> list[Part]:
    """All pinned parts of all architectures."""
    document = json.loads(path.read_text())
    return [Part(**entry) for entry in document["parts"]]


def write_pins(parts: list[Part], path: Path = PINS_FILE) -> None:
    """Write the pins sorted, one part a line, so that a refresh reads well as a diff."""
    lines = ",\n".join("    " + json.dumps(asdict(part)) for part in sorted(parts))
    path.write_text(f'{{\n  "schema": {SCHEMA},\n  "parts": [\n{lines}\n  ]\n}}\n')

"""Wheels of any platform from PyPI through pip."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from guest.builder.arch import Architecture
from guest.builder.errors import BuildError
from guest.builder.tools import run

PYTHON_VERSION = "3.11"
"""The Python inside the guest."""


def download_wheel(name: str, version: str, arch: Architecture, into: Path) -> Path:
    """Download one wheel without its dependencies and return its path in ``into``.

    Raises BuildError when pip cannot find or fetch it.
    """
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
                *("--platform", arch.wheel_tag, "--python-version", PYTHON_VERSION, "--dest", scratch),
                f"{name}=={version}",
            ]
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise BuildError(f"pip brought {len(wheels)} files for {name} {version}; expected one wheel")
        return wheels[0].rename(into / wheels[0].name)

"""Where the native engine keeps its things."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATA_ROOT = Path("/var/lib/wherry")
DEFAULT_RUN_DIR = Path("/run/wherry")
SOCKET_NAME = "docker.sock"

# The directory that holds the packages: a checkout, or site-packages.
PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class NativeLocations:
    """`data_root` holds images and containers and outlives a reboot; `run_dir` holds sockets and locks."""

    data_root: Path = DEFAULT_DATA_ROOT
    run_dir: Path = DEFAULT_RUN_DIR

    @classmethod
    def from_environment(
        cls, data_root: str | None = None, run_dir: str | None = None, environ: Mapping[str, str] = os.environ
    ) -> "NativeLocations":
        """Arguments win over WHERRY_DATA_ROOT and WHERRY_RUN_DIR, those over the defaults."""
        return cls(
            Path(data_root or environ.get("WHERRY_DATA_ROOT") or DEFAULT_DATA_ROOT).absolute(),
            Path(run_dir or environ.get("WHERRY_RUN_DIR") or DEFAULT_RUN_DIR).absolute(),
        )

    @property
    def host(self) -> str:
        return f"unix://{self.run_dir / SOCKET_NAME}"

    @property
    def record(self) -> Path:
        """The engine's note of itself, which it takes away when it is shut down in order."""
        return self.run_dir / "engine.json"


def embedded_images() -> Path | None:
    """The images that come with Wherry: as installed, or as built in a checkout. None if there are none."""
    candidates = (Path(sys.prefix) / "share" / "wherry" / "images", PACKAGES / "build" / "images")
    return next((directory for directory in candidates if any(directory.glob("*.tar*"))), None)

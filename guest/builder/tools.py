"""Running the few programs a build needs (qemu-img, debugfs, dpkg, mksquashfs, pip, apt)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from guest.builder.errors import BuildError

DEBIAN_PACKAGE = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "mksquashfs": "squashfs-tools",
    "qemu-img": "qemu-utils",
}


def run(argv: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run one program to its end and return its standard output.

    Raises BuildError when the program is missing or exits non-zero; the message carries its last words.
    """
    try:
        done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        package = DEBIAN_PACKAGE.get(argv[0], argv[0])
        raise BuildError(f"{argv[0]} is not installed; install it with: apt-get install {package}") from None
    if done.returncode != 0:
        last_words = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise BuildError(f"{argv[0]} failed with exit code {done.returncode}: {last_words}")
    return done.stdout

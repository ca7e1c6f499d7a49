"""The processor architectures a guest image is built for, and what each is called elsewhere."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One architecture with the names its sources and its QEMU machine use for it."""

    name: str
    """The kernel's name (``uname -m``); also names the output folder."""
    debian: str
    """Debian's name, as in ``apt-get download pkg:amd64``."""
    oci: str
    """The name in OCI image configurations (Go's GOARCH)."""
    wheel_tag: str
    """The wheel platform tag pip is asked for."""
    multiarch: str
    """Debian's library folder below /lib and /usr/lib."""
    machines: tuple[str, ...]
    """QEMU machine types the image boots on, preferred first."""


ARCHITECTURES = {
    "x86_64": Architecture(
        name="x86_64",
        debian="amd64",
        oci="amd64",
        wheel_tag="manylinux_2_17_x86_64",
        multiarch="x86_64-linux-gnu",
        machines=("microvm", "q35"),
    ),
    "aarch64": Architecture(
        name="aarch64",
        debian="arm64",
        oci="arm64",
        wheel_tag="manylinux_2_17_aarch64",
        multiarch="aarch64-linux-gnu",
        machines=("virt",),
    ),
}


def host_architecture() -> str:
    """The name of this machine's architecture, whether or not an image can be built for it."""
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())

"""`--platform`: whether an image is for the platform asked for, or for this host."""

from __future__ import annotations

from runtime.content.image import Image
from runtime.errors import InvalidParameter, NotFound
from runtime.oci.image import Platform, platform_matches, platform_of_host

_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_KNOWN = frozenset(("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"))


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/amd64` or `arm64`; raises InvalidParameter."""
    host = platform_of_host()
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = [parts[0], host["architecture"]] if parts[0] == "linux" else ["linux", parts[0]]
    architecture = _ARCHITECTURES.get(parts[1], parts[1])
    if len(parts) > 3 or not all(parts) or architecture not in _KNOWN:
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    platform = Platform(os=parts[0], architecture=architecture)
    if len(parts) == 3:
        platform["variant"] = parts[2]
    elif architecture == "arm64":
        platform["variant"] = "v8"
    return platform


def check_platform(image: Image, name: str, asked: str) -> list[str]:
    """What to warn of; raises NotFound, on which a client pulls, if the image is not for the platform asked for."""
    host = platform_of_host()
    config = image.config
    offered = Platform(os=config.get("os") or "linux", architecture=config.get("architecture") or host["architecture"])
    if variant := config.get("variant"):
        offered["variant"] = variant
    if asked:
        wanted = parse_platform(asked)
        if not platform_matches(wanted, offered):
            raise NotFound(
                f"image with reference {name} was found but its platform ({_shown(offered)}) does not match the "
                f"specified platform ({_shown(wanted)})"
            )
        return []
    if platform_matches(host, offered):
        return []
    return [
        f"The requested image's platform ({_shown(offered)}) does not match the detected host platform "
        f"({_shown(host)}) and no specific platform was requested"
    ]


def _shown(platform: Platform) -> str:
    return "/".join(filter(None, (platform["os"], platform["architecture"], platform.get("variant", ""))))

"""`--platform`: whether an image is for the platform asked for, or for this host."""

from __future__ import annotations

from runtime.content.image import Image
from runtime.errors import NotFound
from runtime.oci.image import Platform, parse_platform, platform_matches, platform_of_host, platform_text


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
                f"image with reference {name} was found but its platform ({platform_text(offered)}) does not match the "
                f"specified platform ({platform_text(wanted)})"
            )
        return []
    if platform_matches(host, offered):
        return []
    return [
        f"The requested image's platform ({platform_text(offered)}) does not match the detected host platform "
        f"({platform_text(host)}) and no specific platform was requested"
    ]

"""`--platform`: whether an image is for the platform asked for, or for this host."""

from __future__ import annotations

from runtime.content.image import Image
from runtime.errors import NotFound
from runtime.oci.image import Platform, parse_platform, platform_matches, platform_of_host, platform_text


def require_platform(image: Image, name: str, wanted: Platform) -> None:
    """Raises NotFound, on which a client pulls, if the image is not for the platform `wanted`."""
    offered = _offered(image)
    if not platform_matches(wanted, offered):
        raise NotFound(
            f"image with reference {name} was found but its platform ({platform_text(offered)}) does not match the "
            f"specified platform ({platform_text(wanted)})"
        )


def _offered(image: Image) -> Platform:
    """What an image does not say is taken to be the host's."""
    host, config = platform_of_host(), image.config
    offered = Platform(os=config.get("os") or "linux", architecture=config.get("architecture") or host["architecture"])
    if variant := config.get("variant"):
        offered["variant"] = variant
    return offered


def check_platform(image: Image, name: str, asked: str) -> list[str]:
    """What to warn of; `asked` is empty or a platform, as for `require_platform`."""
    if asked:
        require_platform(image, name, parse_platform(asked))
        return []
    host, offered = platform_of_host(), _offered(image)
    if platform_matches(host, offered):
        return []
    return [
        f"The requested image's platform ({platform_text(offered)}) does not match the detected host platform "
        f"({platform_text(host)}) and no specific platform was requested"
    ]

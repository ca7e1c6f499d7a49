"""The ARGs nobody declares: platforms for FROM, proxies and BUILDKIT_* for RUN.

Source: Dockerfile reference, "Predefined ARGs" and "Automatic platform ARGs in the global scope".
"""

from collections.abc import Mapping

PROXY_ARGS = frozenset(
    {
        *("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy"),
        *("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"),
    }
)
"""Set for RUN when given as build argument, neither in the image's history nor in the cache's keys."""

BUILDKIT_ARGS = frozenset(
    {
        *("BUILDKIT_BUILD_NAME", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_CONTEXT_KEEP_GIT_DIR"),
        *("BUILDKIT_DOCKERFILE_CHECK", "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM"),
        *("BUILDKIT_SANDBOX_HOSTNAME", "BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"),
        *("BUILDKIT_SYNTAX", "SOURCE_DATE_EPOCH"),
    }
)
"""Build arguments that speak to the builder and need no ARG."""

TARGET_STAGE = "TARGETSTAGE"


def global_args(build_platform: str, target_platform: str, target_stage: str = "") -> dict[str, str]:
    """The values known to FROM without a declaration, and to a stage that declares `ARG NAME`.

    Platforms are `os/architecture[/variant]`. `target_stage` is --target, "" being the last stage.
    """
    return {
        **_split("BUILD", build_platform),
        **_split("TARGET", target_platform),
        TARGET_STAGE: target_stage or "default",
    }


def _split(prefix: str, platform: str) -> dict[str, str]:
    os_name, architecture, variant = (*platform.split("/", 2), "", "")[:3]
    return {
        f"{prefix}PLATFORM": platform,
        f"{prefix}OS": os_name,
        f"{prefix}OSVERSION": "",
        f"{prefix}ARCH": architecture,
        f"{prefix}VARIANT": variant,
    }


def undeclared(build_args: Mapping[str, str], declared: set[str]) -> list[str]:
    """The build arguments nothing consumed, of which Docker warns, in the order given."""
    known = declared | PROXY_ARGS | BUILDKIT_ARGS
    return [name for name in build_args if name not in known]

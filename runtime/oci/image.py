"""The documents of the OCI image-spec as they stand in JSON, and the platform images are chosen for.

Docker's schema 2 manifests and lists have the same shape under other media types and are read as these.
"""

from platform import machine
from typing import Any, TypedDict

from runtime.errors import InvalidParameter

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_TAR_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = frozenset({MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({INDEX, DOCKER_MANIFEST_LIST})

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_IMAGE_NAME = "io.containerd.image.name"
"""The full name with tag or digest; containerd's and Docker's, where `ref.name` holds the tag alone."""
ANNOTATION_TAGGED_AT = "io.wherry.image.tagged"
ANNOTATION_PARENT = "io.wherry.image.parent"
ANNOTATION_REMOVED = "io.wherry.image.removed"


class _PlatformRequired(TypedDict):
    architecture: str
    os: str


class Platform(_PlatformRequired, total=False):
    variant: str


class _DescriptorRequired(TypedDict):
    mediaType: str
    digest: str
    size: int


class Descriptor(_DescriptorRequired, total=False):
    annotations: dict[str, str]
    platform: Platform
    urls: list[str]


class _ManifestRequired(TypedDict):
    schemaVersion: int
    config: Descriptor
    layers: list[Descriptor]


class Manifest(_ManifestRequired, total=False):
    mediaType: str
    annotations: dict[str, str]


class _IndexRequired(TypedDict):
    schemaVersion: int
    manifests: list[Descriptor]


class Index(_IndexRequired, total=False):
    mediaType: str
    annotations: dict[str, str]


class Healthcheck(TypedDict, total=False):
    """Docker's extension to the image configuration. Durations in nanoseconds."""

    Test: list[str]
    Interval: int
    Timeout: int
    StartPeriod: int
    StartInterval: int
    Retries: int


class ContainerDefaults(TypedDict, total=False):
    """The `config` part of an image configuration: how its containers start unless told otherwise."""

    User: str
    ExposedPorts: dict[str, dict[str, object]]
    Env: list[str]
    Entrypoint: list[str]
    Cmd: list[str]
    Volumes: dict[str, dict[str, object]]
    WorkingDir: str
    Labels: dict[str, str]
    StopSignal: str
    ArgsEscaped: bool
    Healthcheck: Healthcheck
    OnBuild: list[str]
    Shell: list[str]


class RootFS(TypedDict):
    type: str
    diff_ids: list[str]


class History(TypedDict, total=False):
    created: str
    created_by: str
    author: str
    comment: str
    empty_layer: bool


class _ImageConfigRequired(TypedDict):
    architecture: str
    os: str
    rootfs: RootFS


class ImageConfig(_ImageConfigRequired, total=False):
    created: str
    author: str
    variant: str
    config: ContainerDefaults
    history: list[History]
    container: str  # Docker's, of an image that a commit made: the container's id and its whole Config
    container_config: dict[str, Any]
    comment: str  # Docker\'s, of images its builders made before 2019
    docker_version: str


# `uname -m` → GOARCH and variant, the words image configurations use.
_MACHINES = {
    "x86_64": ("amd64", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64le": ("ppc64le", ""),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
}


_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_KNOWN = frozenset(("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"))


def platform_of_host() -> Platform:
    """The platform whose images run on this kernel; an unknown machine keeps the kernel's name for it."""
    name = machine()
    architecture, variant = _MACHINES.get(name, (name, ""))
    platform = Platform(os="linux", architecture=architecture)
    if variant:
        platform["variant"] = variant
    return platform


def platform_of(config: ImageConfig) -> Platform:
    """What an image's configuration says."""
    platform = Platform(os=config["os"], architecture=config["architecture"])
    if variant := config.get("variant"):
        platform["variant"] = variant
    return platform


def platform_matches(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for `offered` is one for `wanted`; an absent variant agrees with every variant."""
    return (
        offered["os"] == wanted["os"]
        and offered["architecture"] == wanted["architecture"]
        and (not offered.get("variant") or offered.get("variant") == wanted.get("variant"))
    )


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


def platform_text(platform: Platform) -> str:
    """`linux/arm64/v8`, as messages have it."""
    variant = platform.get("variant")
    return f"{platform['os']}/{platform['architecture']}" + (f"/{variant}" if variant else "")


def image_for(index: Index, wanted: Platform) -> Descriptor | None:
    """The index's entry for `wanted`; the exact variant before one without."""
    fitting = [
        entry for entry in index["manifests"] if (platform := entry.get("platform")) and _offers(wanted, platform)
    ]
    exact = [entry for entry in fitting if entry["platform"].get("variant") == wanted.get("variant")]
    return next(iter([*exact, *fitting]), None)


def _offers(wanted: Platform, offered: Platform) -> bool:
    if not wanted.get("variant"):  # any variant will do
        return (offered["os"], offered["architecture"]) == (wanted["os"], wanted["architecture"])
    return platform_matches(wanted, offered)


def choose_platform(index: Index) -> Descriptor:
    """The index's entry for this platform; the only image of an index is taken whatever its platform.

    Raises InvalidParameter listing the platforms there are.
    """
    images = [
        entry
        for entry in index["manifests"]
        if not (platform := entry.get("platform")) or platform["os"] != "unknown"  # buildkit's attestations
    ]
    host = platform_of_host()
    for entry in images:
        if (platform := entry.get("platform")) and platform_matches(host, platform):
            return entry
    if len(images) == 1:
        return images[0]
    offered = ", ".join(_platform_name(entry) for entry in images) or "none"
    raise InvalidParameter(f"the image is not available for {host['os']}/{host['architecture']}; it has: {offered}")


def _platform_name(entry: Descriptor) -> str:
    platform = entry.get("platform")
    return f"{platform['os']}/{platform['architecture']}" if platform else "unnamed"

"""Image references with Docker's grammar, normalisation and error sentences.

Source: the grammar in github.com/distribution/reference (reference.go, regexp.go, normalize.go).

    reference   := name [ ":" tag ] [ "@" digest ]
    name        := [ domain "/" ] path
    domain      := host [ ":" port ]       host := dns name | ipv4 | "[" ipv6 "]"
    path        := component { "/" component }
"""

import re
from dataclasses import dataclass, replace

from runtime.errors import InvalidParameter

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DEFAULT_DOMAIN = "index.docker.io"
_OFFICIAL_PREFIX = "library/"
_NAME_LENGTH_MAX = 255

_DOMAIN_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*)"
    rf"(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")
_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Reference:
    """A fully qualified image name with a tag, a digest, both or neither. `str()` is the canonical text."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The repository: domain and path, no tag."""
        return f"{self.domain}/{self.path}"

    def familiar_name(self) -> str:
        """The repository as a person writes it: without docker.io/ and library/."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL_PREFIX)
        return self.path if "/" in short else short

    def familiar(self) -> str:
        """The whole reference as a person writes it: `alpine:3.20`, `ghcr.io/a/b@sha256:...`."""
        return self.familiar_name() + self._suffix()

    def with_default_tag(self) -> "Reference":
        """This reference, tagged `latest` when it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def parse(text: str) -> Reference:
    """`parse_name` with Docker's default tag: `alpine` is docker.io/library/alpine:latest."""
    return parse_name(text).with_default_tag()


def parse_name(text: str) -> Reference:
    """Parses what a person or a client wrote, filling in domain and `library/` but no tag.

    Raises InvalidParameter with Docker's sentence, which clients show as it is.
    """
    if not text:
        raise InvalidParameter("invalid reference format: the image name is empty")
    if _IMAGE_ID.fullmatch(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    repository = remainder.partition(":")[0].partition("@")[0]
    if repository.lower() != repository:
        raise InvalidParameter(f"invalid reference format: repository name ({repository}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise InvalidParameter(f'invalid reference format: "{text}"')
    reference = Reference(match["domain"], match["path"], match["tag"], match["digest"])
    if len(reference.name) > _NAME_LENGTH_MAX:
        raise InvalidParameter(f"repository name must not be more than {_NAME_LENGTH_MAX} characters")
    if reference.digest:
        _check_digest(reference.digest)
    return reference


def _split_domain(text: str) -> tuple[str, str]:
    """The first component is a domain only if it looks like one; if not, all of it is a path at docker.io."""
    first, slash, rest = text.partition("/")
    looks_like_domain = any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first
    domain, remainder = (first, rest) if slash and looks_like_domain else (DEFAULT_DOMAIN, text)
    if domain == _LEGACY_DEFAULT_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL_PREFIX + remainder
    return domain, remainder


def _check_digest(digest: str) -> None:
    algorithm, _, encoded = digest.partition(":")
    if algorithm not in _HEX_LENGTHS:
        raise InvalidParameter(f"invalid reference format: unsupported digest algorithm {algorithm}")
    if len(encoded) != _HEX_LENGTHS[algorithm] or encoded.lower() != encoded:
        raise InvalidParameter(f"invalid reference format: invalid checksum digest {digest}")

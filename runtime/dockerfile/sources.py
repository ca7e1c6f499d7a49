"""Where ADD and a build's context come from: files, URLs or git repositories."""

import re
from enum import Enum, auto

from runtime.dockerfile import git_reference
from runtime.dockerfile.git_reference import GitReference
from runtime.errors import InvalidParameter

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


class Kind(Enum):
    """What a source of ADD, or a context, is."""

    LOCAL = auto()
    HTTP = auto()
    GIT = auto()


def classify(source: str) -> tuple[Kind, GitReference | None]:
    """A source of ADD, its variables expanded. Raises InvalidParameter."""
    return _classify(source, git_reference.parse(source))


def classify_context(remote: str) -> tuple[Kind, GitReference | None]:
    """The `remote` of a build: LOCAL is a path on the client's machine, which the engine refuses."""
    return _classify(remote, git_reference.parse(remote, context=True))


def _classify(text: str, git: GitReference | None) -> tuple[Kind, GitReference | None]:
    if git is not None:
        return Kind.GIT, git
    return (Kind.HTTP if text.startswith(("http://", "https://")) else Kind.LOCAL), None


def check_checksum(checksum: str, source: str) -> None:
    """Whether `--checksum` says something about `source`: a digest of a download, a commit of a repository.

    Raises InvalidParameter.
    """
    kind, _ = classify(source)
    if kind is Kind.LOCAL:
        raise InvalidParameter("checksum can't be specified for non-HTTP(S) & non-Git sources")
    pattern, wanted = (_COMMIT, "commit") if kind is Kind.GIT else (_DIGEST, "digest")
    if not pattern.fullmatch(checksum):
        raise InvalidParameter(
            f"invalid checksum {checksum!r} of {source}: write the {wanted} in lower-case hexadecimal"
        )

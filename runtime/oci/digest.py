"""Content digests: `algorithm:encoded`, OCI image-spec, descriptor.md, "Digests".

Wherry stores content by sha256, the one algorithm every registry and tool uses. A name may have the digest of a
manifest by another; that is verified.
"""

import hashlib
import re
from collections.abc import Iterable

from runtime.errors import InvalidParameter

ALGORITHM = "sha256"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def of_bytes(data: bytes, algorithm: str = ALGORITHM) -> str:
    """The digest of `data`; `algorithm`: one that a reference may have."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The 64 hexadecimal digits of `digest`: safe as a file name. Raises InvalidParameter."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidParameter(f'invalid digest "{digest}": expected sha256: and 64 lower-case hex digits')
    return match[1]


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """The identity of each layer on top of those below it, bottom first.

    OCI image-spec, config.md, "Layer ChainID": the first is its own diff ID, every other is the digest of
    "<chain ID below> <diff ID>".
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(of_bytes(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)

"""The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and escaped characters, no brackets.

Matched by sets of positions, so that no pattern takes more than time proportional to text times pattern.
"""

from collections.abc import Sequence
from typing import TypeAlias

ANY = -1
"""`?`"""
STAR = -2
"""`*`"""

Token: TypeAlias = int | str
"""ANY, STAR or the character itself."""


def tokens(pattern: str) -> list[Token]:
    """Reads a pattern. Raises ValueError for an escape of a character that needs none."""
    result: list[Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\":
            char = pattern[at : at + 1]
            at += 1
            if not char or char not in "*?\\}/":
                raise ValueError(f"invalid escape '\\{char}'")
            result.append(char)
        else:
            result.append(STAR if char == "*" else ANY if char == "?" else char)
    return result


def without_prefix(value: str, pattern: Sequence[Token], longest: bool) -> str:
    """`value` without the longest or shortest beginning that matches."""
    ends = _ends(value, pattern, 0)
    return value[(max if longest else min)(ends) :] if ends else value


def without_suffix(value: str, pattern: Sequence[Token], longest: bool) -> str:
    """`value` without the longest or shortest end that matches."""
    return without_prefix(value[::-1], pattern[::-1], longest)[::-1]


def replaced(value: str, pattern: Sequence[Token], replacement: str, every: bool) -> str:
    """`value` with the first match, or every match, replaced; the longest at each place counts."""
    result: list[str] = []
    at, copied, last_end = 0, 0, -1
    while at <= len(value):
        ends = _ends(value, pattern, at)
        end = max(ends) if ends else -1
        if end < 0 or (end == at == last_end):
            at += 1
            continue
        result += [value[copied:at], replacement]
        copied = last_end = end
        if not every:
            break
        at = end if end > at else at + 1
    return "".join([*result, value[copied:]])


def _ends(value: str, pattern: Sequence[Token], start: int) -> set[int]:
    """Where matches that begin at `start` end."""
    ends = {start}
    for token in pattern:
        if token == STAR:
            ends = set(range(min(ends), len(value) + 1))
        elif token == ANY:
            ends = {end + 1 for end in ends if end < len(value)}
        else:
            ends = {end + 1 for end in ends if value[end : end + 1] == token}
        if not ends:
            break
    return ends

"""`.dockerignore`, and the patterns of `COPY --exclude`.

A path is ignored when the last pattern that matches it, or a directory above it, has no `!`.
Source: Dockerfile reference, ".dockerignore files"; the grammar of a component is that of Go's filepath.Match.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from runtime.errors import InvalidParameter

FILE_NAME = ".dockerignore"


def file_names(dockerfile: str) -> tuple[str, str]:
    """The ignore files of a build with `dockerfile` (a path in the context); the first that exists counts."""
    return f"{dockerfile}{FILE_NAME}", FILE_NAME


def parse_file(content: str | bytes) -> list[str]:
    """The patterns of an ignore file, cleaned. They are relative to the context; a leading `/` means nothing."""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        exception = pattern.startswith("!")
        if exception:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        patterns.append(f"!{pattern}" if exception else pattern)
    return patterns


class Matcher:
    """Patterns compiled. Paths are relative, with slashes, and not cleaned here."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises InvalidParameter for a pattern that is none."""
        compiled = [_Pattern(text) for pattern in patterns if (text := pattern.strip())]
        self._groups = [
            (exception, re.compile("|".join(pattern.regex for pattern in group), re.DOTALL), group)
            for exception, group in ((key, list(same)) for key, same in groupby(compiled, lambda each: each.exception))
        ]

    @property
    def has_exceptions(self) -> bool:
        return any(exception for exception, _, _ in self._groups)

    def ignores(self, path: str) -> bool:
        """Whether `path` is left out. The top of the context never is."""
        deciding = self._deciding(path)
        return deciding >= 0 and not self._groups[deciding][0]

    def skips(self, directory: str) -> bool:
        """Whether `directory` is left out with all that can be below it, so that nobody need look inside."""
        deciding = self._deciding(directory)
        if deciding < 0 or self._groups[deciding][0]:
            return False
        parts = directory.split("/")
        return not any(
            pattern.reaches_below(parts)
            for exception, _, group in self._groups[deciding + 1 :]
            if exception
            for pattern in group
        )

    def _deciding(self, path: str) -> int:
        """The last group of patterns that matches, -1 for none."""
        if path in ("", "."):
            return -1
        for index in range(len(self._groups) - 1, -1, -1):
            if self._groups[index][1].fullmatch(path):
                return index
        return -1


class _Pattern:
    def __init__(self, text: str) -> None:
        text = _clean(text)
        self.exception = text.startswith("!")
        pattern = text[1:] if self.exception else text
        if not pattern:
            raise InvalidParameter('illegal exclusion pattern: "!"')
        self._text = pattern
        self.regex = f"(?:{_regex(pattern)})(?:/.*)?"
        """Matches what the pattern matches, and everything below."""
        self._components: list[re.Pattern[str] | None] = []
        """One for each directory of the pattern; None where `**` may stand for several."""

    def reaches_below(self, parts: Sequence[str]) -> bool:
        """Whether anything below the directory of `parts` can match."""
        if not self._components:
            self._components = [None if "**" in part else re.compile(_regex(part)) for part in self._text.split("/")]
        for part, component in zip(parts, self._components, strict=False):
            if component is None:
                return True
            if not component.fullmatch(part):
                return False
        return True


def _clean(pattern: str) -> str:
    """Go's filepath.Clean: `a//b/../c/` is `a/c`."""
    cleaned = posixpath.normpath(pattern)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def path_pattern(pattern: str) -> re.Pattern[str]:
    """For paths of files alone, as --parents wants it: `**` stands for any directories. Raises InvalidParameter."""
    return re.compile(_regex(_clean(pattern)), re.DOTALL)


def _regex(pattern: str) -> str:
    """The regular expression of a pattern without `!`. Raises InvalidParameter."""
    if pattern.startswith("**") and not any(char in pattern[2:] for char in "*?[]\\"):
        rest = pattern[2:]
        return f"(?:.*/)?{re.escape(rest[1:])}" if len(rest) > 1 and rest[0] == "/" else f".*{re.escape(rest)}"
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern.startswith("*", at):
            at += 2 if pattern.startswith("*/", at) else 1
            parts.append(".*" if at >= len(pattern) else "(?:.*/)?")
            if len(parts) > 1 and parts[-1] == parts[-2]:
                parts.pop()
        elif char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            text, at = _character_class(pattern, at)
            parts.append(text)
        elif char == "\\":
            if at >= len(pattern):
                raise _bad(pattern)
            parts.append(re.escape(pattern[at]))
            at += 1
        else:
            parts.append(re.escape(char))
    return "".join(parts)


def _character_class(pattern: str, at: int) -> tuple[str, int]:
    """`[^a-z]`, from behind the bracket."""
    negated = pattern.startswith("^", at)
    at += negated
    items: list[str] = []
    while not (items and pattern.startswith("]", at)):
        low, at = _class_member(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_member(pattern, at + 1)
        if high < low:
            raise _bad(pattern)
        items.append(f"{_class_literal(low)}-{_class_literal(high)}")
    return f"[{'^' if negated else ''}{''.join(items)}]", at + 1


def _class_literal(char: str) -> str:
    return char if char.isalnum() else f"\\U{ord(char):08x}"


def _class_member(pattern: str, at: int) -> tuple[str, int]:
    if pattern.startswith("\\", at):
        at += 1
    elif pattern.startswith(("-", "]"), at):
        raise _bad(pattern)
    if at + 1 >= len(pattern):
        raise _bad(pattern)
    return pattern[at], at + 1


def _bad(pattern: str) -> InvalidParameter:
    return InvalidParameter(f"error checking context: syntax error in pattern: {pattern}")

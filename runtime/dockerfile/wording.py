"""How BuildKit words its messages: quoted strings and suggestions for misspelt names."""

from collections.abc import Iterable

_SUGGESTED_WITHIN = 3
"""Edits that a suggestion is closer than."""
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f"}


def quoted(text: str) -> str:
    """`text` as Go's %q prints it."""
    return '"' + "".join(_ESCAPED.get(char) or _printable(char) for char in text) + '"'


def _printable(char: str) -> str:
    if char == "\v":
        return "\\v"
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def suggestion(word: str, options: Iterable[str], *, case_sensitive: bool = True) -> str:
    """The option `word` was probably meant to be, or "" when none is near or it is one of them."""
    best, best_distance = "", _SUGGESTED_WITHIN
    wanted = word if case_sensitive else word.lower()
    for option in options:
        candidate = option if case_sensitive else option.lower()
        if candidate == wanted:
            return ""
        if abs(len(candidate) - len(wanted)) < best_distance:
            distance = _edits(wanted, candidate)
            if distance < best_distance:
                best, best_distance = option, distance
    return best


def did_you_mean(message: str, word: str, options: Iterable[str], *, case_sensitive: bool = True) -> str:
    """`message`, with the suggestion for `word` behind it if there is one."""
    match = suggestion(word, options, case_sensitive=case_sensitive)
    return f"{message} (did you mean {match}?)" if match else message


def _edits(left: str, right: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]

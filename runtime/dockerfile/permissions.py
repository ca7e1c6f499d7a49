"""`--chmod` and `--chown` of COPY and ADD."""

import re
from dataclasses import dataclass

from runtime.errors import InvalidParameter

_OCTAL = re.compile(r"[0-7]{1,4}|0[0-7]{4}|0o[0-7]{1,4}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True, slots=True)
class Mode:
    """What `--chmod` does. `apply` gives a file's new permission bits."""

    octal: int | None
    clauses: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    def apply(self, mode: int, *, is_directory: bool) -> int:
        """The low twelve bits that come from those of `mode`."""
        if self.octal is not None:
            return self.octal
        result = mode & 0o7777
        for who, actions in self.clauses:
            for operator, what in actions:
                result = _applied(result, who or "ugo", operator, what, is_directory)
        return result


def parse_chmod(text: str) -> Mode:
    """Octal (`644`, `0755`) or symbolic (`u=rwX,go=rX`). Raises InvalidParameter."""
    if _OCTAL.fullmatch(text):
        return Mode(int(text.removeprefix("0o"), 8))
    clauses = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise InvalidParameter(
                f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, "
                "or symbolic like u=rwX,go=rX"
            )
        who = match[1].replace("a", "ugo")
        clauses.append((who, tuple((action[1], action[2]) for action in _ACTION.finditer(match[2]))))
    return Mode(None, tuple(clauses))


def _applied(mode: int, who: str, operator: str, what: str, is_directory: bool) -> int:
    bits = _wanted(mode, who, what, is_directory)
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    cleared = 0
    for person in who:
        cleared |= 0o7 << _SHIFT[person]
        cleared |= {"u": 0o4000, "g": 0o2000, "o": 0o1000}[person] if not is_directory or person == "o" else 0
    return mode & ~cleared | bits


def _wanted(mode: int, who: str, what: str, is_directory: bool) -> int:
    if what in _SHIFT and what:
        copied = mode >> _SHIFT[what] & 0o7
        return sum(copied << _SHIFT[person] for person in set(who))
    bits = 0
    for person in who:
        for letter in what:
            if letter in _BITS:
                bits |= _BITS[letter] << _SHIFT[person]
            elif letter == "X":
                bits |= (1 << _SHIFT[person]) if is_directory or mode & 0o111 else 0
            elif letter == "s":
                bits |= {"u": 0o4000, "g": 0o2000, "o": 0}[person]
    if "t" in what:
        bits |= 0o1000
    return bits


@dataclass(frozen=True, slots=True)
class Owner:
    """User and group as written, names or numbers; the group is None when not given: then the user's number is."""

    user: str
    group: str | None = None


def parse_chown(text: str) -> Owner:
    """`user[:group]`. Names are looked up in the stage's /etc/passwd and /etc/group. Raises InvalidParameter."""
    user, colon, group = text.partition(":")
    if not user or ":" in group or (colon and not group):
        raise InvalidParameter(f"invalid chown parameter: '{text}'. write user, user:group, uid or uid:gid")
    return Owner(user, group or None)

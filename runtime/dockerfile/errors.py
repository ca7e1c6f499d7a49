"""A mistake in a Dockerfile, with the lines it is on."""

from runtime.dockerfile.model import Location
from runtime.errors import InvalidParameter

_CONTEXT_LINES = 2


class DockerfileError(InvalidParameter):
    """`str(error)` is BuildKit's sentence; `location` holds the lines, counted from 1 (None: the whole file)."""

    def __init__(self, message: str, location: Location | None = None) -> None:
        super().__init__(message)
        self.location = location


def excerpt(source: str, location: Location, name: str = "Dockerfile") -> str:
    """The lines around `location` as BuildKit prints them below an error, those at fault marked with `>>>`."""
    lines = source.splitlines()
    first, last = location.first_line, min(location.last_line, len(lines))
    start = max(1, first - _CONTEXT_LINES)
    end = min(len(lines), last + _CONTEXT_LINES)
    shown = [
        f"{number:4d} | {'>>>' if first <= number <= last else '   '} {lines[number - 1]}"
        for number in range(start, end + 1)
    ]
    rule = "-" * 20
    return "\n".join([f"{name}:{first}", rule, *shown, rule])

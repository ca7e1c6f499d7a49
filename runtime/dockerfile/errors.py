"""A mistake in a Dockerfile, with the lines it is on."""

from runtime.dockerfile.model import Location
from runtime.errors import InvalidParameter

_LINES_MAX = 200
_COLUMNS_MAX = 1000
_MESSAGE_MAX = 4000


class DockerfileError(InvalidParameter):
    """`str(error)` is BuildKit's sentence; `location` holds the lines at fault, None when they are not known yet."""

    def __init__(self, message: str, location: Location | None = None) -> None:
        super().__init__(message if len(message) <= _MESSAGE_MAX else f"{message[:_MESSAGE_MAX]}...")
        self.location = location


def on_line(error: DockerfileError, location: Location) -> DockerfileError:
    """`error` of a single instruction, told with its line unless it has one."""
    if error.location is not None:
        return error
    return DockerfileError(f"dockerfile parse error on line {location.first_line}: {error}", location)


def excerpt(source: str, location: Location, name: str = "Dockerfile") -> str:
    """The lines around `location` as BuildKit prints them with an error, those at fault marked with `>>>`.

    Of many lines the first are shown, and of a long one its beginning.
    """
    lines = source.split("\n")
    first, last = location.first_line, min(location.last_line, len(lines))
    around = 2 if first == last else 1
    shown = [
        f"{number:4d} | {'>>>' if first <= number <= last else '   '} {_shown(lines[number - 1])}"
        for number in range(max(1, first - around), min(len(lines), last + around) + 1)[:_LINES_MAX]
    ]
    rule = "-" * 20
    return "\n".join([f"{name}:{first}", rule, *shown, rule])


def _shown(line: str) -> str:
    line = line.rstrip("\r")
    return line if len(line) <= _COLUMNS_MAX else f"{line[:_COLUMNS_MAX]}..."

"""From the lines of a Dockerfile to its instructions: directives, comments, continuations, here-documents."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.dockerfile import heredoc
from runtime.dockerfile.arguments import BLANKS, SHAPES, Arguments, split_flags
from runtime.dockerfile.errors import DockerfileError, on_line
from runtime.dockerfile.model import Directives, Heredoc, Location

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = ("syntax", "escape", "check")
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
_CONTINUED = {
    "\\": re.compile(r"(?:(?<=[^\\])|^)\\[ \t]*$"),
    "`": re.compile(r"(?:(?<=[^`])|^)`[ \t]*$"),
}


@dataclass(slots=True)
class Node:
    """One instruction as written. `keyword` keeps its case; `line` is all of it, continuation lines joined.

    `comments` are the comment lines right above it, without `#`. `empty_continuation`: blank lines were skipped.
    """

    keyword: str
    flags: list[str]
    arguments: Arguments
    line: str
    location: Location
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuation: bool = False
    trigger: "Node | None" = None
    """The instruction behind ONBUILD."""

    @property
    def name(self) -> str:
        return self.keyword.upper()

    @property
    def text(self) -> str:
        """`line`, and the here-documents below it."""
        return self.line.strip() + "".join(f"\n{doc.raw_content}{doc.name}" for doc in self.heredocs)


@dataclass(slots=True)
class Lines:
    """A Dockerfile read: its directives, with the line of each, and its instructions."""

    directives: Directives
    directive_lines: dict[str, int]
    nodes: list[Node]


def read(source: str) -> Lines:
    """Raises DockerfileError, with a location."""
    return _Reader(source.removeprefix("\ufeff")).read()


def node_of(line: str, escape: str, location: Location) -> Node:
    """One instruction without here-documents. Raises DockerfileError without a location."""
    keyword, *rest = BLANKS.split(line.strip(), maxsplit=1)
    flags, text = split_flags(rest[0]) if rest else ([], "")
    shape = SHAPES.get(keyword.upper())
    text = text.strip()
    arguments = shape(text, escape) if shape else Arguments()
    trigger = node_of(text, escape, location) if keyword.upper() == "ONBUILD" and text and not _chained(text) else None
    return Node(keyword, flags, arguments, line, location, trigger=trigger)


def _chained(text: str) -> bool:
    return BLANKS.split(text, maxsplit=1)[0].upper() == "ONBUILD"


@dataclass(slots=True)
class _Reader:
    source: str
    at: int = 0
    """Lines read so far."""
    values: dict[str, str] = field(default_factory=dict)
    directive_lines: dict[str, int] = field(default_factory=dict)
    directives_done: bool = False
    escape: str = "\\"

    def read(self) -> Lines:
        lines = self.source.split("\n")
        if lines[-1] == "":
            lines.pop()
        nodes = list(self._nodes(lines))
        if not nodes:
            raise DockerfileError("file with no instructions", Location(1, max(1, len(lines))))
        values = {"escape": self.escape, **{key: value for key, value in self.values.items() if key != "escape"}}
        return Lines(Directives(**values), self.directive_lines, nodes)

    def _nodes(self, lines: list[str]) -> Iterator[Node]:
        comments: list[str] = []
        while self.at < len(lines):
            line = lines[self.at].rstrip("\r").lstrip()
            self.at += 1
            if line.startswith("#"):
                comment = line[1:].strip()
                if self._directive(line) or not comment:
                    comments = []
                else:
                    comments.append(comment)
                continue
            self.directives_done = True
            if not line:
                comments = []
                continue
            first = self.at
            text, empty = self._continued(line, lines)
            if not text.strip():
                continue
            location = Location(first, self.at)
            try:
                node = node_of(text, self.escape, location)
            except DockerfileError as error:
                raise on_line(error, location) from error
            node.comments, node.empty_continuation = tuple(comments), empty
            comments = []
            self._heredocs(node, lines)
            yield node

    def _directive(self, line: str) -> bool:
        match = None if self.directives_done else _DIRECTIVE.fullmatch(line)
        name = match[1].lower() if match else ""
        if match is None or name not in _DIRECTIVES:
            self.directives_done = True
            return False
        if name in self.values:
            raise DockerfileError(f"only one {name} parser directive can be used", Location(self.at, self.at))
        self.values[name] = match[2]
        self.directive_lines[name] = self.at
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise DockerfileError(
                    f"invalid escape token '{match[2]}' does not match ` or \\", Location(self.at, self.at)
                )
            self.escape = match[2]
        return True

    def _continued(self, line: str, lines: list[str]) -> tuple[str, bool]:
        """`line` with the lines that continue it, and whether there were blank ones among them."""
        pattern = _CONTINUED[self.escape]
        parts: list[str] = []
        empty = False
        while (match := pattern.search(line)) is not None:
            parts.append(line[: match.start()])
            line = ""
            while self.at < len(lines):
                following = lines[self.at].rstrip("\r")
                self.at += 1
                stripped = following.lstrip()
                if stripped and not stripped.startswith("#"):
                    line = following
                    break
                empty = empty or not stripped
        return "".join([*parts, line]), empty

    def _heredocs(self, node: Node, lines: list[str]) -> None:
        inner = node.trigger or node
        if inner.name not in _WITH_HEREDOCS or inner.arguments.is_json:
            return
        first = node.location.first_line
        found: list[Heredoc] = []
        for opened in heredoc.of_line(node.line):
            start = self.at
            while True:
                if self.at >= len(lines):
                    error = DockerfileError("unterminated heredoc")
                    raise on_line(error, Location(first, max(first, self.at)))
                line = lines[self.at].rstrip("\r")
                self.at += 1
                if (line.lstrip("\t") if opened.strip_tabs else line) == opened.name:
                    break
            found.append(heredoc.filled(opened, "".join(f"{line}\n" for line in lines[start : self.at - 1])))
        node.heredocs = tuple(found)
        node.location = Location(first, self.at)
        inner.heredocs = node.heredocs

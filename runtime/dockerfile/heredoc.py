"""Here-documents: found in a line, and what a RUN with them executes."""

import re
from dataclasses import dataclass, replace

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.expansion import delimiter_words, raw_words
from runtime.dockerfile.model import Heredoc, Run

_HEREDOC = re.compile(r"(\d*)<<(-?)(\s*)([^<]*)", re.ASCII)
_AFTER_BLANKS = re.compile(r"""["'\\]?[A-Za-z_][^()]*""")
"""Narrower, since `$((1 << 3))` is arithmetic."""
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


def parse(word: str) -> Heredoc | None:
    """The here-document `word` opens, without content; None when it opens none. Raises DockerfileError."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[4] or (match[3] and not _AFTER_BLANKS.fullmatch(match[4])):
        return None
    names = delimiter_words(match[4], raw_quotes=False)
    if len(names) != 1:
        return None
    written = "".join(delimiter_words(match[4], raw_quotes=True))
    return Heredoc(names[0], "", expand=_quotes(names[0]) == _quotes(written), strip_tabs=bool(match[2]))


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def of_line(line: str) -> list[Heredoc]:
    """The here-documents an instruction's line opens, in order. Raises DockerfileError."""
    if "<<" not in line:
        return []
    try:
        words = raw_words(line)
    except DockerfileError:
        return []  # the shell may well understand what is no word here
    return [found for word in words if (found := parse(word))]


def filled(heredoc: Heredoc, raw: str) -> Heredoc:
    """`heredoc` with the lines that were read for it."""
    content = _LEADING_TABS.sub("", raw) if heredoc.strip_tabs else raw
    return replace(heredoc, content=content, raw_content=raw)


@dataclass(frozen=True, slots=True)
class Script:
    """What a RUN executes. With `interpreted` the text is a file to be run itself (it begins with `#!`), under
    `name`; otherwise it is handed to the shell, as RUN's shell form is.
    """

    text: str
    interpreted: bool = False
    name: str = ""


def run_script(run: Run) -> Script:
    """For a RUN in the shell form, with or without here-documents."""
    command = run.command[0] if run.command else ""
    if not run.heredocs:
        return Script(command)
    first = run.heredocs[0]
    if parse(command) is not None:
        return Script(first.content, interpreted=first.raw_content.startswith("#!"), name=first.name)
    return Script(command + "".join(f"\n{heredoc.raw_content}{heredoc.name}" for heredoc in run.heredocs))

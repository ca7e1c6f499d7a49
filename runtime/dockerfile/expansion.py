"""Variables and quotes in the words of a Dockerfile.

POSIX parameter expansion as BuildKit's reference lists it, with the escape character of the file. Quotes inside
`${v:-word}` are read as in any other word. Source: Dockerfile reference, "Environment replacement".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.dockerfile import globs
from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.wording import quoted

_SPECIAL_PARAMETERS = "@*#?-$!0"
_NESTING_MAX = 50


@dataclass(frozen=True, slots=True)
class Expanded:
    """A word expanded: whole, split at unquoted blanks, and the variables it named (set and unset)."""

    text: str
    words: list[str]
    matched: frozenset[str]
    unmatched: frozenset[str]


def expand(word: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """`word` with variables replaced and quotes removed. Raises DockerfileError without a location."""
    return expanded(word, env, escape).text


def expand_words(word: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, split at blanks that are not quoted; the blanks of values split too."""
    return expanded(word, env, escape).words


def expand_heredoc(content: str, env: Mapping[str, str]) -> str:
    """A here-document's content: variables replaced, quotes kept, backslash escapes."""
    return expanded(content, env, "\\", keep_quotes=True).text


def expanded(
    word: str,
    env: Mapping[str, str],
    escape: str = "\\",
    *,
    keep_quotes: bool = False,
) -> Expanded:
    """`expand` with all that was found. `keep_quotes`: quotes are ordinary characters."""
    lexer = _Lexer(word, env, escape, quotes=not keep_quotes)
    return lexer.run()


def raw_words(line: str) -> list[str]:
    """`line` split into words as a shell does, quotes and escapes kept: to look for here-documents.

    Blanks between `<<` and its delimiter belong to the word.
    """
    return _Lexer(line, {}, "\\", raw_quotes=True, raw_escapes=True, keep_unset=True, heredocs=True).run().words


def delimiter_words(text: str, *, raw_quotes: bool) -> list[str]:
    """A here-document's delimiter as words, with or without its quotes."""
    return _Lexer(text, {}, "\\", raw_quotes=raw_quotes, keep_unset=True).run().words


class _Fault(Exception):
    """A syntax error inside a word; `at_end` when the text ran out."""

    def __init__(self, message: str, *, at_end: bool = False) -> None:
        super().__init__(message)
        self.at_end = at_end


@dataclass(slots=True)
class _Words:
    """Collects words; blanks end one only when it was not quoted."""

    done: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        for char in text:
            if not char.isspace():
                self.current.append(char)
            else:
                self.finish()

    def add_quoted(self, text: str) -> None:
        self.current.append(text)

    def finish(self) -> list[str]:
        if word := "".join(self.current):
            self.done.append(word)
        self.current = []
        return self.done


class _Lexer:
    def __init__(
        self,
        text: str,
        env: Mapping[str, str],
        escape: str,
        *,
        quotes: bool = True,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        keep_unset: bool = False,
        heredocs: bool = False,
    ) -> None:
        self._text = text
        self._at = 0
        self._env = env
        self._escape = escape
        self._quotes = quotes
        self._raw_quotes = raw_quotes
        self._raw_escapes = raw_escapes
        self._keep_unset = keep_unset
        self._heredocs = heredocs
        self._depth = 0
        self._matched: set[str] = set()
        self._unmatched: set[str] = set()

    def run(self) -> Expanded:
        try:
            text, words = self._until("", self._raw_escapes)
        except _Fault as fault:
            raise DockerfileError(f"failed to process {quoted(self._text)}: {fault}") from fault
        return Expanded(text, words, frozenset(self._matched), frozenset(self._unmatched))

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def _until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """The text up to `stop`, which is consumed ("": to the end), expanded; whole and in words."""
        self._depth += 1
        if self._depth > _NESTING_MAX:
            raise _Fault(f"syntax error: substitutions are nested more than {_NESTING_MAX} deep")
        outer_raw, self._raw_escapes = self._raw_escapes, raw_escapes
        result: list[str] = []
        words = _Words()
        try:
            while char := self._peek():
                if char == stop:
                    self._at += 1
                    return "".join(result), words.finish()
                self._one(char, result, words)
        finally:
            self._raw_escapes = outer_raw
            self._depth -= 1
        if stop:
            raise _Fault(f"unexpected end of statement while looking for matching {stop}", at_end=True)
        return "".join(result), words.finish()

    def _one(self, char: str, result: list[str], words: _Words) -> None:
        if char == "$":
            value = self._dollar()
            words.add(value)
        elif self._quotes and char in "'\"":
            value = self._single_quoted() if char == "'" else self._double_quoted()
            words.add_quoted(value)
        elif self._heredocs and char == "<":
            value = self._redirection()
            words.add_quoted(value)
        elif char == self._escape:
            self._at += 1
            value = (char if self._raw_escapes else "") + self._next()
            if value:
                words.add_quoted(value)
        else:
            value = self._next()
            words.add(value)
        result.append(value)

    def _redirection(self) -> str:
        start = self._at
        self._at += 1
        if self._peek() == "<":
            self._at += 1
            while self._peek().isspace():
                self._at += 1
        return self._text[start : self._at]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            self._at = len(self._text)
            raise _Fault("unexpected end of statement while looking for matching single-quote", at_end=True)
        start, self._at = self._at, end + 1
        return self._text[start : end + 1] if self._raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        quote = '"' if self._raw_quotes else ""
        self._at += 1
        result = [quote]
        while char := self._peek():
            if char == '"':
                self._at += 1
                return "".join([*result, quote])
            if char == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape:
                following = self._peek()
                if self._raw_escapes:
                    result.append(char)
                if not following:
                    continue
                if following in ('"', "$", self._escape):
                    self._at += 1
                    char = following
            result.append(char)
        raise _Fault("unexpected end of statement while looking for matching double-quote", at_end=True)

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return f"${name}" if value is None and self._keep_unset else value or ""
        self._at += 1
        if not self._peek():
            raise _Fault("syntax error: missing '}'", at_end=True)
        if self._peek() in "{}:":
            raise _Fault("syntax error: bad substitution")
        name = self._name()
        operator = self._next()
        if operator == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self._keep_unset else value or ""
        if operator == "/":
            return self._replacement(name)
        null_is_unset = operator == ":"
        if null_is_unset:
            operator = self._next()
        written = f":{operator}" if null_is_unset else operator
        if not operator:
            raise _Fault("syntax error: missing '}'", at_end=True)
        if not null_is_unset and operator not in "+-?#%":
            raise _Fault(f"unsupported modifier ({written}) in substitution")
        word = self._braced("}", operator in "#%")
        return self._modified(name, operator, written, word, null_is_unset)

    def _modified(self, name: str, operator: str, written: str, word: str, null_is_unset: bool) -> str:
        value = self._value(name)
        if value is None and self._keep_unset:
            return f"${{{name}{written}{word}}}"
        absent = value is None or (null_is_unset and value == "")
        if operator == "-":
            return word if absent else value or ""
        if operator == "+":
            return "" if absent else word
        if operator == "?":
            if absent:
                what = "unset" if value is None else "empty"
                raise _Fault(f"{name}: {word or f'is not allowed to be {what}'}")
            return value or ""
        if operator in "#%":
            longest = word.startswith(operator)
            return self._trimmed(value or "", word[1:] if longest else word, operator == "#", longest)
        raise _Fault(f"unsupported modifier ({written}) in substitution")

    def _trimmed(self, value: str, pattern: str, from_start: bool, longest: bool) -> str:
        tokens = self._pattern(pattern)
        return (globs.without_prefix if from_start else globs.without_suffix)(value, tokens, longest)

    def _replacement(self, name: str) -> str:
        every = self._peek() == "/"
        if every:
            self._at += 1
        pattern = self._braced("/", True)
        replacement = self._braced("}", True)
        value = self._value(name)
        if value is None and self._keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return globs.replaced(value or "", self._pattern(pattern), replacement, every)

    def _pattern(self, pattern: str) -> list[globs.Token]:
        try:
            return globs.tokens(pattern)
        except ValueError as error:
            raise _Fault(f"invalid pattern ({pattern}) in substitution: {error}") from error

    def _braced(self, stop: str, raw_escapes: bool) -> str:
        try:
            return self._until(stop, raw_escapes)[0]
        except _Fault as fault:
            if fault.at_end:
                missing = "missing '/' in ${}" if stop == "/" else "missing '}'"
                raise _Fault(f"syntax error: {missing}", at_end=True) from fault
            raise

    def _name(self) -> str:
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first and first in _SPECIAL_PARAMETERS:
            self._at += 1
        else:
            while (char := self._peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self._at += 1
        return self._text[start : self._at]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        (self._unmatched if value is None else self._matched).add(name)
        return value

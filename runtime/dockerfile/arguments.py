"""What stands behind an instruction's name: flags, words, JSON arrays, pairs.

The shape is each instruction's own (`SHAPES`); the meaning is read in `instructions`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.model import KeyValue
from runtime.dockerfile.wording import quoted

BLANKS = re.compile(r"[\t\v\f\r ]+")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Arguments:
    """`words` as written, or the strings of a JSON array (`is_json`). `pairs` for ENV and LABEL only."""

    words: tuple[str, ...] = ()
    is_json: bool = False
    pairs: tuple[KeyValue, ...] = ()


def split_flags(text: str) -> tuple[list[str], str]:
    """The leading `--flag=value` words, quotes removed, and what follows them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, at = _flag(text, at)
        if word == "--":
            return flags, text[at:]
        flags.append(word)


def _flag(text: str, at: int) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while at < len(text):
        char = text[at]
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char.isspace():
            break
        elif char == "\\":
            at += 1
            word.append(text[at : at + 1])
        else:
            word.append(char)
        at += 1
    return "".join(word), at


def split_words(text: str, escape: str) -> list[str]:
    """Words separated by unquoted blanks, quotes and escapes kept."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'":
            if at + 1 == len(text):
                break
            word.append(text[at : at + 2])
            at += 2
            continue
        if not quote and char.isspace():
            if word:
                words.append("".join(word))
            word = []
        else:
            if char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            word.append(char)
        at += 1
    if word:
        words.append("".join(word))
    return words


def json_strings(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array; None for anything else. Raises DockerfileError for an array of other things."""
    text = text.lstrip()
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(_SURROGATES.sub("\ufffd", item) for item in value)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _blank_separated(text: str, _escape: str) -> Arguments:
    return Arguments(tuple(BLANKS.split(text)) if text else ())


def _whole(text: str, _escape: str) -> Arguments:
    return Arguments((text,) if text else ())


def _json_or_whole(text: str, escape: str) -> Arguments:
    strings = json_strings(text)
    return _whole(text, escape) if strings is None else Arguments(strings, is_json=True)


def _json_or_separated(text: str, escape: str) -> Arguments:
    strings = json_strings(text)
    return _blank_separated(text, escape) if strings is None else Arguments(strings, is_json=True)


def _declarations(text: str, escape: str) -> Arguments:
    return Arguments(tuple(split_words(text, escape)))


def _health(text: str, escape: str) -> Arguments:
    """The kind, then as for CMD."""
    if not text:
        return Arguments()
    kind, rest = (*text.split(None, 1), "")[:2]
    command = _json_or_whole(rest, escape)
    return Arguments((kind, *command.words), is_json=command.is_json)


def _pairs_of(name: str) -> Callable[[str, str], Arguments]:
    def read(text: str, escape: str) -> Arguments:
        words = split_words(text, escape)
        if not words:
            return Arguments()
        if "=" not in words[0]:
            key, *value = BLANKS.split(text, maxsplit=1)
            if not value:
                raise DockerfileError(f"{name} must have two arguments")
            return Arguments(pairs=(KeyValue(key, value[0], legacy=True),))
        for word in words:
            if "=" not in word:
                raise DockerfileError(f"Syntax error - can't find = in {quoted(word)}. Must be of the form: name=value")
        parts = [word.partition("=") for word in words]
        return Arguments(pairs=tuple(KeyValue(key, value) for key, _, value in parts))

    return read


SHAPES: dict[str, Callable[[str, str], Arguments]] = {
    "ADD": _json_or_separated,
    "ARG": _declarations,
    "CMD": _json_or_whole,
    "COPY": _json_or_separated,
    "ENTRYPOINT": _json_or_whole,
    "ENV": _pairs_of("ENV"),
    "EXPOSE": _blank_separated,
    "FROM": _blank_separated,
    "HEALTHCHECK": _health,
    "LABEL": _pairs_of("LABEL"),
    "MAINTAINER": _whole,
    "ONBUILD": _whole,
    "RUN": _json_or_whole,
    "SHELL": _json_or_whole,
    "STOPSIGNAL": _whole,
    "USER": _whole,
    "VOLUME": _json_or_separated,
    "WORKDIR": _whole,
}
"""How the arguments of each instruction are read: (text after the flags, escape character) -> Arguments."""

"""`RUN --mount=...`. Source: Dockerfile reference, "RUN --mount"."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.model import RunMount
from runtime.dockerfile.wording import did_you_mean, quoted

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_WITH_OWNER = ("secret", "ssh", "cache")
_REQUIRABLE = ("secret", "ssh")
_KEYS = (
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
)
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_UNIT_POWER = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_ID_MAX = 2**32 - 1
_VARIABLE = re.compile(r"\$.")


def check_written(text: str) -> None:
    """What can be said before variables are known. Raises DockerfileError."""
    for item in _fields(text):
        key, equals, value = item.partition("=")
        if equals and key.lower() == "from" and _VARIABLE.search(value):
            raise DockerfileError("'from' doesn't support variable expansion, define alias stage instead")


def from_of(text: str) -> str:
    """The stage or image a mount is from; "" for the context and for mounts that have none."""
    result = ""
    for item in _fields(text):
        key, _, value = item.partition("=")
        if key.lower() == "from":
            result = value
    return result


def parse_mount(text: str, expand: Callable[[str], str] = str) -> RunMount:
    """One `--mount` of Run.mounts, its values passed through `expand`. Raises DockerfileError without a location."""
    draft = _Draft()
    for item in _fields(text):
        key, equals, value = item.partition("=")
        key = key.lower()
        if not equals:
            _switch(draft, key, item)
        else:
            _assign(draft, key, expand(value), item)
    return _checked(draft)


@dataclass(slots=True)
class _Draft:
    type: str = "bind"
    read_only: bool | None = None
    required: bool = False
    size_bytes: int | None = None
    strings: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)


def _switch(draft: _Draft, key: str, item: str) -> None:
    name = _ALIASES.get(key, key)
    if name in ("readonly", "readwrite"):
        draft.read_only = name == "readonly"
    elif name == "required":
        _only_for(draft, key, _REQUIRABLE)
        draft.required = True
    else:
        raise DockerfileError(f"invalid field '{item}' must be a key=value pair")


def _assign(draft: _Draft, key: str, value: str, item: str) -> None:
    name = _ALIASES.get(key, key)
    if name == "type":
        if value.lower() not in TYPES:
            raise DockerfileError(did_you_mean(f"unsupported mount type {quoted(value)}", value, TYPES))
        draft.type = value.lower()
    elif name in ("from", "source", "target", "id", "env"):
        draft.strings[name] = value
    elif name in ("readonly", "readwrite"):
        draft.read_only = _boolean(key, value) == (name == "readonly")
    elif name == "required":
        _only_for(draft, key, _REQUIRABLE)
        draft.required = _boolean(key, value)
    elif name == "size":
        _only_for(draft, key, ("tmpfs",))
        draft.size_bytes = _size(key, value)
    elif name == "sharing":
        if value.lower() not in _SHARING:
            raise DockerfileError(did_you_mean(f"unsupported sharing value {quoted(value)}", value, _SHARING))
        draft.strings[name] = value.lower()
    elif name in ("mode", "uid", "gid"):
        draft.numbers[name] = _number(name, value)
    else:
        raise DockerfileError(did_you_mean(f"unexpected key '{key}' in '{item}'", key, _KEYS))


def _checked(draft: _Draft) -> RunMount:
    kind, strings = draft.type, draft.strings
    if kind not in _WITH_OWNER and draft.numbers:
        raise DockerfileError(f"{next(iter(draft.numbers))} not allowed for {quoted(kind)} type mounts")
    if kind == "secret":
        if strings.get("from"):
            raise DockerfileError("secret mount should not have a from")
        if strings.get("sharing"):
            raise DockerfileError("secret mount should not define sharing")
        if not any(strings.get(name) for name in ("source", "target", "id")):
            raise DockerfileError("invalid secret mount. one of source, target required")
        if strings.get("source") and strings.get("id"):
            raise DockerfileError("both source and id can't be set")
    if strings.get("sharing") and kind != "cache":
        raise DockerfileError(f"invalid cache sharing set for {kind} mount")
    if "env" in strings and kind != "secret":
        raise DockerfileError(f"unexpected key 'env' for mount type '{kind}'")
    if kind not in ("secret", "ssh") and not strings.get("target"):
        raise DockerfileError(f"{kind} mount has no target: give it target=PATH")
    return RunMount(
        type=kind,
        target=strings.get("target", ""),
        source=strings.get("source", ""),
        from_=strings.get("from", ""),
        read_only=kind not in ("cache", "tmpfs") if draft.read_only is None else draft.read_only,
        sharing=strings.get("sharing", "shared"),
        id=strings.get("id", ""),
        size_bytes=draft.size_bytes,
        required=draft.required,
        env=strings.get("env"),
        mode=draft.numbers.get("mode"),
        uid=draft.numbers.get("uid"),
        gid=draft.numbers.get("gid"),
    )


def _fields(text: str) -> list[str]:
    """One record of comma-separated values (RFC 4180): a quoted field may hold commas, "" is a quote."""
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            value, at = _quoted_field(text, at + 1)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            value, at = text[at:end], end
            if '"' in value:
                raise DockerfileError('failed to parse csv mounts: bare " in non-quoted field')
        fields.append(value)
        if at >= len(text):
            break
        at += 1
    if fields == [""]:
        raise DockerfileError("failed to parse csv mounts: EOF")
    return fields


def _quoted_field(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise DockerfileError('failed to parse csv mounts: extraneous or missing " in quoted-field')
        parts.append(text[at:end])
        at = end + 1
        if not text.startswith('"', at):
            break
        parts.append('"')
        at += 1
    if at < len(text) and text[at] != ",":
        raise DockerfileError('failed to parse csv mounts: extraneous or missing " in quoted-field')
    return "".join(parts), at


def _only_for(draft: _Draft, key: str, kinds: tuple[str, ...]) -> None:
    if draft.type not in kinds:
        raise DockerfileError(f"unexpected key '{key}' for mount type '{draft.type}'")


def _boolean(key: str, value: str) -> bool:
    result = _BOOLEANS.get(value if value in ("t", "f") else value.lower())
    if result is None:
        raise DockerfileError(f"invalid value for {key}: {value}")
    return result


def _size(key: str, value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None or len(match[1]) > 18:
        raise DockerfileError(f"invalid value for {key}: {value}")
    factor = 1024 ** _UNIT_POWER.get((match[2] or "").lower(), 0)
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def _number(name: str, value: str) -> int:
    digits = "01234567" if name == "mode" else "0123456789"
    if value and len(value) <= 12 and all(char in digits for char in value):
        number = int(value, len(digits))
        if number <= _ID_MAX:
            return number
    raise DockerfileError(f"invalid value {value} for {name}")

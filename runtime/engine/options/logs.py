"""`--log-driver` and `--log-opt`. Rules and sentences are Docker's (daemon/logger, jsonfilelog and local)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.engine.options.model import Document, LogDriver, LogOptions
from runtime.errors import InvalidParameter, NotSupported

DRIVERS: tuple[LogDriver, ...] = ("json-file", "local", "none")
DOCKERS_OTHERS = ("awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog")
DEFAULT_DRIVER: LogDriver = "json-file"
EVERY_DRIVERS = {"mode", "max-buffer-size"}
FILE_OPTIONS = {"max-size", "max-file", "compress"}
ATTRIBUTE_OPTIONS = {"labels", "labels-regex", "env", "env-regex", "tag"}
LOCAL_DEFAULTS = {"max-size": "20971520", "max-file": "5", "compress": "true"}
TAG_FIELDS = {"ID", "FullID", "Name", "ImageName", "ImageID", "ImageFullID", "DaemonName", "Command"}

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_TAG_FIELD = re.compile(r"\{\{\s*\.?([^}]*?)\s*\}\}")
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def log_options(host: Document, labels: Mapping[str, str], env: list[str]) -> LogOptions:
    """The container's log; raises InvalidParameter, or NotSupported for a driver that is not here."""
    config = host.get("LogConfig") or {}
    driver = config.get("Type") or DEFAULT_DRIVER
    given: dict[str, str] = {name: str(value) for name, value in (config.get("Config") or {}).items()}
    if driver not in (*DRIVERS, *DOCKERS_OTHERS):
        raise InvalidParameter(f"logger: no log driver named '{driver}' is registered")
    if driver not in DRIVERS:
        raise NotSupported(
            f"--log-driver {driver} is not supported by this version of Wherry: use {', '.join(DRIVERS[:-1])} "
            f"or {DRIVERS[-1]}"
        )
    if driver == "none":
        return LogOptions("none")
    _check_mode(given)
    allowed = FILE_OPTIONS | (ATTRIBUTE_OPTIONS if driver == "json-file" else set())
    for name in given.keys() - EVERY_DRIVERS:
        if name not in allowed:
            whose = "json-file log driver" if driver == "json-file" else f"log driver {driver}"
            raise InvalidParameter(f"unknown log opt '{name}' for {whose}")
    merged = {**(LOCAL_DEFAULTS if driver == "local" else {}), **given}
    max_size_bytes = _positive_size(merged["max-size"]) if "max-size" in merged else None
    max_files = _max_files(merged.get("max-file", "1"))
    compress = _boolean(merged.get("compress", "false"))
    if compress and (max_files == 1 or max_size_bytes is None):
        if driver == "json-file" or "compress" in given:
            raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
        compress = False
    return LogOptions(
        driver, max_size_bytes, max_files, compress, _attributes(given, labels, env), _tag(given.get("tag", ""))
    )


def _check_mode(given: Mapping[str, str]) -> None:
    """A file keeps no container waiting, so both modes are the same here; what is wrong is refused all the same."""
    mode = given.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in given:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        _size(given["max-buffer-size"], 1024)


def _size(text: str, thousand: int) -> int:
    """go-units' FromHumanSize (1000) or RAMInBytes (1024)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    power = " kmgtp".index(match[2].lower() or " ")
    return int(float(match[1]) * thousand**power)


def _positive_size(text: str) -> int:
    size = _size(text, 1000)
    if size <= 0:
        raise InvalidParameter("max-size must be a positive number")
    return size


def _max_files(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
    if number < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    return number


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise InvalidParameter(f'strconv.ParseBool: parsing "{text}": invalid syntax') from None


def _attributes(given: Mapping[str, str], labels: Mapping[str, str], env: list[str]) -> dict[str, str]:
    """What the options choose of labels and environment (daemon/logger/loginfo.go, ExtraAttributes)."""
    variables = dict(entry.split("=", 1) for entry in env if "=" in entry)
    attributes: dict[str, str] = {}
    for option, source in (("labels", labels), ("env", variables)):
        wanted = set(filter(None, given.get(option, "").split(",")))
        pattern = given.get(f"{option}-regex")
        try:
            matches = re.compile(pattern) if pattern else None
        except re.error as error:
            raise InvalidParameter(f"error parsing regexp {pattern!r} of --log-opt {option}-regex: {error}") from None
        attributes |= {
            name: value for name, value in source.items() if name in wanted or (matches and matches.search(name))
        }
    return attributes


def _tag(template: str) -> str:
    for field in _TAG_FIELD.findall(template):
        if field not in TAG_FIELDS:
            raise NotSupported(
                f"--log-opt tag={template} is not supported by this version of Wherry: of Go templates, "
                f"{{{{.FIELD}}}} with {', '.join(sorted(TAG_FIELDS))} is"
            )
    return template


def expand_tag(template: str, fields: Mapping[str, str]) -> str:
    """`{{.Name}}` and the like replaced; `fields` has TAG_FIELDS."""
    return _TAG_FIELD.sub(lambda match: fields[match[1]], template)

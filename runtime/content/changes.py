"""Dockerfile instructions applied to an image configuration: the `--change` of docker import and commit.

Source: Dockerfile reference; the allowed set is Docker's (daemon/images, BuildFromConfig).
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any, cast

from runtime.errors import InvalidParameter
from runtime.oci.image import ContainerDefaults, Healthcheck

_SHELL = ["/bin/sh", "-c"]
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_HEALTHCHECK_DURATIONS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def apply_changes(settings: ContainerDefaults, changes: Iterable[str]) -> ContainerDefaults:
    """`settings` with `changes` ("CMD sh", "ENV A=1"...) applied in order. Raises InvalidParameter."""
    changed = cast(ContainerDefaults, dict(settings))
    for change in changes:
        instruction, _, arguments = change.strip().partition(" ")
        if not instruction:
            continue
        apply = _INSTRUCTIONS.get(instruction.upper())
        if apply is None:
            allowed = ", ".join(_INSTRUCTIONS)
            raise InvalidParameter(f"{instruction.upper()} is not a valid change; use one of {allowed}")
        if not arguments.strip():
            raise InvalidParameter(f"{instruction.upper()} requires at least one argument")
        apply(changed, arguments.strip())
    return changed


def _cmd(settings: ContainerDefaults, arguments: str) -> None:
    settings["Cmd"] = _command(arguments, settings)


def _entrypoint(settings: ContainerDefaults, arguments: str) -> None:
    settings["Entrypoint"] = _command(arguments, settings)


def _env(settings: ContainerDefaults, arguments: str) -> None:
    variables = dict(item.partition("=")[::2] for item in settings.get("Env", []))
    variables.update(_pairs("ENV", arguments))
    settings["Env"] = [f"{name}={value}" for name, value in variables.items()]


def _label(settings: ContainerDefaults, arguments: str) -> None:
    settings["Labels"] = {**settings.get("Labels", {}), **_pairs("LABEL", arguments)}


def _expose(settings: ContainerDefaults, arguments: str) -> None:
    ports = dict(settings.get("ExposedPorts", {}))
    for text in arguments.split():
        match = _PORT.fullmatch(text.lower())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < first <= last <= 65535:
            raise InvalidParameter(f"invalid port in EXPOSE: {text}; write a port or range like 80 or 8000-8010/udp")
        ports.update({f"{port}/{match[3] or 'tcp'}": {} for port in range(first, last + 1)})
    settings["ExposedPorts"] = ports


def _volume(settings: ContainerDefaults, arguments: str) -> None:
    paths = _json_strings(arguments) or arguments.split()
    settings["Volumes"] = {**settings.get("Volumes", {}), **{path: {} for path in paths}}


def _user(settings: ContainerDefaults, arguments: str) -> None:
    settings["User"] = arguments


def _workdir(settings: ContainerDefaults, arguments: str) -> None:
    current = settings.get("WorkingDir", "") or "/"
    settings["WorkingDir"] = arguments if arguments.startswith("/") else f"{current.rstrip('/')}/{arguments}"


def _stopsignal(settings: ContainerDefaults, arguments: str) -> None:
    settings["StopSignal"] = arguments


def _onbuild(settings: ContainerDefaults, arguments: str) -> None:
    instruction = arguments.split()[0].upper()
    if instruction in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidParameter(f"{instruction} isn't allowed as an ONBUILD trigger")
    settings["OnBuild"] = [*settings.get("OnBuild", []), arguments]


def _healthcheck(settings: ContainerDefaults, arguments: str) -> None:
    check: dict[str, Any] = {}
    while arguments.startswith("--"):
        option, _, arguments = arguments.partition(" ")
        name, _, value = option.removeprefix("--").partition("=")
        if name in _HEALTHCHECK_DURATIONS:
            check[_HEALTHCHECK_DURATIONS[name]] = _duration(value)
        elif name == "retries" and value.isdigit():
            check["Retries"] = int(value)
        else:
            raise InvalidParameter(f"invalid HEALTHCHECK option {option}")
        arguments = arguments.lstrip()
    kind, _, command = arguments.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE" and not command:
        check["Test"] = ["NONE"]
    elif kind.upper() == "CMD" and command:
        words = _json_strings(command)
        check["Test"] = ["CMD", *words] if words is not None else ["CMD-SHELL", command]
    else:
        raise InvalidParameter("HEALTHCHECK must be NONE, or CMD and a command")
    settings["Healthcheck"] = cast(Healthcheck, check)


_INSTRUCTIONS: dict[str, Callable[[ContainerDefaults, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _command(arguments: str, settings: ContainerDefaults) -> list[str]:
    """The JSON form is run as it is, anything else by the image's shell."""
    words = _json_strings(arguments)
    return words if words is not None else [*(settings.get("Shell") or _SHELL), arguments]


def _json_strings(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(word, str) for word in value) else None


def _pairs(instruction: str, arguments: str) -> dict[str, str]:
    """`a=1 b="x y"`, or the old form `a the rest of the line`."""
    first = arguments.split()[0]
    if "=" not in first:
        _, space, rest = arguments.partition(" ")
        if not space:
            raise InvalidParameter(f"{instruction} must have two arguments")
        return {first: rest.strip()}
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise InvalidParameter(f"{instruction} has an unfinished quote: {arguments}") from error
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidParameter(f"{instruction} needs name=value, and {word!r} is not")
        pairs[name] = value
    return pairs


def _duration(text: str) -> int:
    """Go's time.ParseDuration for what is not negative: `1m30s`, in nanoseconds."""
    if not text or _DURATION_PART.sub("", text):
        raise InvalidParameter(f'invalid duration "{text}"; write it like 30s or 1m30s')
    return sum(int(float(number) * _NANOSECONDS[unit]) for number, unit in _DURATION_PART.findall(text))

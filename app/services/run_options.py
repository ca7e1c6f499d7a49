"""What a person writes to describe a container (`8080:80`, `512m`, `./site:/srv:ro`), in the API's words.

The syntaxes are those of `docker run`. Everything here is pure apart from reading the environment and the
files an option names. Mistakes raise UserError naming the text and what it should look like.
"""

import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.errors import UserError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PORT = re.compile(
    r"(?:(?:(?P<ip>\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):)?(?P<host>\d+(?:-\d+)?)?:)?"
    r"(?P<container>\d+(?:-\d+)?)(?:/(?P<protocol>tcp|udp|sctp))?"
)
_DRIVE = re.compile(r"[a-zA-Z]:[\\/]")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A container to be made. Texts are in `docker run`'s syntax; None and empty leave it to the image."""

    image: str
    command: tuple[str, ...] = ()
    name: str | None = None
    environment: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    network: str | None = None
    entrypoint: str | None = None
    memory: str | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    read_only: bool = False
    init: bool = False
    interactive: bool = False
    tty: bool = False
    remove: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    console_size: tuple[int, int] | None = field(default=None)
    """Rows and columns of the terminal that will be attached."""


def container_config(options: RunOptions, attached: bool = False) -> dict[str, Any]:
    """The body of POST /containers/create. `attached`: somebody will be connected when it starts.

    Raises UserError.
    """
    exposed, bindings = port_bindings(options.ports)
    binds, anonymous = volume_mounts(options.volumes)
    host: dict[str, Any] = {"AutoRemove": options.remove, "NetworkMode": options.network or "default"}
    _put(host, "Binds", binds)
    _put(host, "PortBindings", bindings)
    _put(host, "Memory", memory_bytes(options.memory) if options.memory else 0)
    _put(host, "NanoCpus", _nano_cpus(options.cpus) if options.cpus is not None else 0)
    _put(host, "PidsLimit", options.pids_limit)
    _put(host, "ReadonlyRootfs", options.read_only)
    _put(host, "Init", options.init)
    _put(host, "Tmpfs", dict(_tmpfs(entry) for entry in options.tmpfs))
    _put(host, "CapAdd", list(options.cap_add))
    _put(host, "CapDrop", list(options.cap_drop))
    _put(host, "SecurityOpt", [_security_option(entry) for entry in options.security_opt])
    _put(host, "ConsoleSize", list(options.console_size or ()))
    config: dict[str, Any] = {
        "Image": options.image,
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": options.interactive and attached,
        "AttachStdin": options.interactive and attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "HostConfig": host,
    }
    _put(config, "Cmd", list(options.command))
    _put(config, "Env", environment(options.environment))
    _put(config, "ExposedPorts", exposed)
    _put(config, "Volumes", {path: {} for path in anonymous})
    _put(config, "WorkingDir", options.workdir)
    _put(config, "User", options.user)
    _put(config, "Hostname", options.hostname)
    _put(config, "Labels", labels(options.labels))
    if options.entrypoint is not None:
        # An empty entrypoint takes the image's away; the API says that with one empty string.
        config["Entrypoint"] = [options.entrypoint]
    return config


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    if value:
        target[key] = value


def port_bindings(entries: Iterable[str]) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    """(ExposedPorts, PortBindings) of `80`, `8080:80`, `127.0.0.1::53/udp`, `8000-8001:80-81`."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for entry in entries:
        match = _PORT.fullmatch(entry)
        if match is None:
            raise _mistake(entry, "is not a port to publish", "Write it like 8080:80, or 127.0.0.1:8080:80/tcp.")
        container = _port_range(match["container"], entry)
        host = _port_range(match["host"], entry) if match["host"] else None
        # One container port may get any free port of a host range: the engine chooses, as Docker's does.
        choice = match["host"] if host and len(container) == 1 and len(host) > 1 else None
        if host and choice is None and len(host) != len(container):
            raise _mistake(entry, "has ranges of different lengths", "Give both sides as many ports.")
        for offset, port in enumerate(container):
            published = choice or (str(host[offset]) if host else "")
            binding = {"HostIp": _address(match["ip"], entry), "HostPort": published}
            bindings.setdefault(f"{port}/{match['protocol'] or 'tcp'}", []).append(binding)
    return {port: {} for port in bindings}, bindings


def _address(text: str | None, entry: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise _mistake(entry, "has no valid address in front", "Write it like 127.0.0.1:8080:80.") from None


def _port_range(text: str, entry: str) -> range:
    first, _, last = text.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise _mistake(entry, "is out of range", "Ports go from 1 to 65535.")
    return ports


def volume_mounts(entries: Iterable[str]) -> tuple[list[str], list[str]]:
    """(Binds, paths of anonymous volumes) of entries like `data:/srv`, `./site:/srv:ro`, `/cache`.

    A source that looks like a path is one, relative to the current directory; anything else names a volume.
    """
    binds: list[str] = []
    anonymous: list[str] = []
    for entry in entries:
        drive = entry[:2] if _DRIVE.match(entry) else ""
        source, *rest = entry[len(drive) :].split(":")
        source = drive + source
        if not rest:
            if not source.startswith("/"):
                raise _mistake(entry, "names no place in the container", "Write it like data:/srv or ./site:/srv:ro.")
            anonymous.append(source)
            continue
        if not source or len(rest) > 2 or not rest[0].startswith("/"):
            raise _mistake(entry, "is not a volume", "Write it like data:/srv or ./site:/srv:ro.")
        if source.startswith(("~", ".")):
            source = str(Path(source).expanduser().absolute())
        binds.append(":".join([source, *rest]))
    return binds, anonymous


def memory_bytes(text: str) -> int:
    """`512m`, `2g`, `1.5GiB`, `1048576`: bytes, in Docker's binary units."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise _mistake(text, "is not an amount of memory", "Write it like 512m or 2g.")
    return int(float(match[1]) * _SIZE_UNITS[match[2].lower()])


def _nano_cpus(cpus: float) -> int:
    if cpus <= 0:
        raise _mistake(str(cpus), "is not a number of processors", "Write it like 1.5.")
    return round(cpus * 1e9)


def environment(entries: Iterable[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """`NAME=value` as it is; `NAME` alone takes this process's value, or is left out if there is none."""
    result = []
    for entry in entries:
        name, separator, _ = entry.partition("=")
        if not name:
            raise _mistake(entry, "has no name", "Write it like NAME=value.")
        if separator:
            result.append(entry)
        elif name in environ:
            result.append(f"{name}={environ[name]}")
    return result


def environment_file(path: str) -> list[str]:
    """The entries of an env file: one a line, `#` begins a comment line."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as failed:
        raise UserError(f"The environment file {path} cannot be read: {failed}.") from failed
    stripped = (line.lstrip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def labels(entries: Iterable[str]) -> dict[str, str]:
    """`key=value`, or `key` for an empty value."""
    pairs = (entry.partition("=") for entry in entries)
    return {key: value for key, _, value in pairs}


def _tmpfs(entry: str) -> tuple[str, str]:
    path, _, options = entry.partition(":")
    if not path.startswith("/"):
        raise _mistake(entry, "is not a place in the container", "Write it like /run:size=64m.")
    return path, options


def _security_option(entry: str) -> str:
    """`seccomp=FILE` carries the profile itself to the engine, which may not see the client's files."""
    key, _, value = entry.replace(":", "=", 1).partition("=")
    if key != "seccomp" or value in ("unconfined", "builtin"):
        return entry
    try:
        return f"seccomp={json.dumps(json.loads(Path(value).read_text('utf-8')))}"
    except (OSError, ValueError) as failed:
        raise UserError(f"The seccomp profile {value} cannot be read: {failed}.") from failed


def _mistake(text: str, what: str, remedy: str) -> UserError:
    return UserError(f"{text!r} {what}.", remedy)

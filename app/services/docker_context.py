"""A context of the docker CLI that leads to an engine of Wherry's, and the socket that programs look for by default.

The CLI keeps a context in contexts/meta/<sha256 of its name>/meta.json below its configuration's folder (docker/cli,
`cli/context/store`).
"""

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import UserError
from app.services.docker_config import config_directory, read_document, write_document

DEFAULT_CONTEXT = "wherry"
DEFAULT_SOCKET = Path("/var/run/docker.sock")

# As the CLI has it.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")
# Tells a context of ours from one that a person made.
_OURS = "MadeByWherry"
_UNIX = "unix://"


@dataclass(frozen=True)
class DockerContext:
    """A context as `show` tells it; `host` is empty when there is none of that name."""

    name: str
    host: str
    file: str
    current: bool
    default_socket: bool


class DockerContexts:
    """Methods raise UserError."""

    def __init__(self, directory: Path | None = None, default_socket: Path = DEFAULT_SOCKET) -> None:
        """`directory` of the docker CLI's configuration."""
        self._directory = directory or config_directory()
        self._default_socket = default_socket

    def show(self, name: str) -> DockerContext:
        document = self._read(name)
        host = _host_of(document)
        return DockerContext(
            name,
            host,
            str(self._file(name)),
            self._config().get("currentContext") == name,
            bool(host) and self._leads_to(host),
        )

    def install(self, name: str, host: str, description: str, use: bool = False, default_socket: bool = False) -> None:
        """Make or renew a context. The current one stays, and programs' default socket, unless asked for."""
        known = self._read(name)
        if known and _OURS not in known.get("Metadata", {}):
            raise UserError(
                f"There is a docker context `{name}` that Wherry did not make; it leads to {_host_of(known)}.",
                f"Choose another with --name, or remove it: docker context rm {name}",
            )
        if default_socket:
            self._link_default_socket(host)
        document = {
            "Name": name,
            "Metadata": {"Description": description, _OURS: True},
            "Endpoints": {"docker": {"Host": _cli_host(host), "SkipTLSVerify": False}},
        }
        write_document(self._file(name), document, indent=None)
        if use:
            self._set_current(name)

    def remove(self, name: str) -> bool:
        """Remove a context of ours with all that was installed for it; False when there is none."""
        document = self._read(name)
        if not document:
            return False
        if _OURS not in document.get("Metadata", {}):
            raise UserError(
                f"Wherry did not make the docker context `{name}`.", f"To remove it: docker context rm {name}"
            )
        if self._leads_to(_host_of(document)):
            try:
                self._default_socket.unlink()
            except OSError as failed:
                raise UserError(
                    f"{self._default_socket} cannot be removed ({failed.strerror}).", "Repeat the command with sudo."
                ) from failed
        if self._config().get("currentContext") == name:
            self._set_current(None)
        shutil.rmtree(self._file(name).parent)
        return True

    def _link_default_socket(self, host: str) -> None:
        socket = self._default_socket
        if sys.platform == "win32" or not host.startswith(_UNIX):
            raise UserError(
                f"{socket} can only lead to an engine with a unix socket, and this one is at {host}.",
                "Leave out --default-socket, and let the docker command use the context: --use",
            )
        if self._leads_to(host):
            return
        if socket.is_symlink() and not socket.exists():
            found = ""  # what it led to is no more
        elif socket.is_symlink():
            found = f" and leads to {socket.readlink()}"
        elif socket.exists():
            found = ", and an engine of somebody else serves it or did"
        else:
            found = ""
        if found:
            raise UserError(
                f"{socket} is there already{found}; it is left as it is.",
                "Stop and remove what made it, or leave out --default-socket.",
            )
        unfinished = socket.with_name(f"{socket.name}.wherry-{os.getpid()}")
        try:
            unfinished.symlink_to(host.removeprefix(_UNIX))
            unfinished.replace(socket)
        except OSError as failed:
            raise UserError(
                f"{socket} cannot be made ({failed.strerror}).", "Repeat the command with sudo, keeping your HOME."
            ) from failed

    def _leads_to(self, host: str) -> bool:
        socket = self._default_socket
        return socket.is_symlink() and host == f"{_UNIX}{socket.readlink()}"

    def _read(self, name: str) -> dict[str, Any]:
        return read_document(self._file(name))

    def _file(self, name: str) -> Path:
        if name == "default" or not _NAME.fullmatch(name):
            raise UserError(
                f"{name!r} cannot name a docker context.",
                "Use two or more letters, digits and any of _.+- after the first; `default` is taken.",
            )
        return self._directory / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"

    def _config(self) -> dict[str, Any]:
        return read_document(self._directory / "config.json")

    def _set_current(self, name: str | None) -> None:
        config = self._config()
        if name is None:
            config.pop("currentContext", None)
        else:
            config["currentContext"] = name
        write_document(self._directory / "config.json", config)


def _host_of(document: dict[str, Any]) -> str:
    return str(document.get("Endpoints", {}).get("docker", {}).get("Host", ""))


def _cli_host(host: str) -> str:
    return f"tcp://{host.removeprefix('http://')}" if host.startswith("http://") else host

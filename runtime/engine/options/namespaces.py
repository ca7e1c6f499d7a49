"""Whose namespaces a container has: `--pid`, `--ipc`, `--uts`, `--cgroupns`, `--userns`."""

from __future__ import annotations

from runtime.engine.options.model import Document
from runtime.errors import InvalidParameter

CONTAINER_PREFIX = "container:"

# HostConfig field → (Docker's word for it, modes, whether another container's may be joined)
_MODES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "PidMode": ("PID", ("", "host"), True),
    "IpcMode": ("IPC", ("", "none", "private", "shareable", "host"), True),
    "UTSMode": ("UTS", ("", "host"), False),
    "CgroupnsMode": ("cgroup namespace", ("", "private", "host"), False),
    "UsernsMode": ("user namespace", ("", "host"), False),
}


def namespace_mode(name: str, host: Document) -> str:
    """The mode in field `name`; raises InvalidParameter."""
    word, modes, joinable = _MODES[name]
    mode = host.get(name) or ""
    if mode not in modes and not (joinable and donor(mode)):
        raise InvalidParameter(f"invalid {word} mode: {mode}")
    return str(mode)


def donor(mode: str) -> str:
    """The container a mode names, "" for none."""
    return mode.removeprefix(CONTAINER_PREFIX) if mode.startswith(CONTAINER_PREFIX) else ""

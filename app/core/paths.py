"""Where Wherry keeps a user's files: settings, data, and logs, by each system's own convention."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

APP = "wherry"


@dataclass(frozen=True)
class Paths:
    """Directories; none is created by asking.

    `runtime` holds what must not survive a reboot (locks, sockets) and is private to the user.
    """

    config: Path
    data: Path
    logs: Path
    runtime: Path

    @property
    def settings_file(self) -> Path:
        return self.config / "settings.json"


def user_paths(
    platform: str = sys.platform, environ: Mapping[str, str] = os.environ, home: Path | None = None
) -> Paths:
    """XDG base directories on Linux, %LOCALAPPDATA% on Windows, ~/Library on macOS."""
    home = home or Path.home()
    if platform == "win32":
        local = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / APP
        return Paths(config=local, data=local, logs=local / "logs", runtime=local / "run")
    if platform == "darwin":
        support = home / "Library" / "Application Support" / APP
        return Paths(support, support, home / "Library" / "Logs" / APP, support / "run")
    state = _xdg(environ, "XDG_STATE_HOME", home / ".local" / "state")
    return Paths(
        config=_xdg(environ, "XDG_CONFIG_HOME", home / ".config"),
        data=_xdg(environ, "XDG_DATA_HOME", home / ".local" / "share"),
        logs=state,
        runtime=_xdg(environ, "XDG_RUNTIME_DIR", state / "run"),
    )


def _xdg(environ: Mapping[str, str], variable: str, default: Path) -> Path:
    """The specification says to ignore a value that is not absolute."""
    value = environ.get(variable, "")
    return (Path(value) if value.startswith("/") else default) / APP

"""Capabilities and `--security-opt` (moby daemon/daemon_unix.go parseSecurityOpt)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.errors import InvalidParameter, NotSupported

SELINUX = Path("/sys/fs/selinux/enforce")
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}  # Go's strconv.ParseBool


def capabilities(names: Iterable[str]) -> list[str]:
    """Capabilities in the kernel's spelling, or ALL; whether there are such is known where they are given."""
    upper = [str(name).upper() for name in names]
    return [name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper]


@dataclass
class Security:
    no_new_privileges: bool = False
    unmasked: bool = False
    seccomp: Literal["default", "unconfined"] | dict[str, Any] = "default"
    apparmor: str = ""
    writable_cgroups: bool | None = None


def security_options(options: Iterable[str]) -> Security:
    """Raises InvalidParameter in Docker's words for what it does not know either."""
    security = Security()
    for text in options:
        name, separator, value = text.partition("=" if "=" in text else ":")
        if text in ("no-new-privileges", "disable"):
            security.no_new_privileges |= text == "no-new-privileges"
        elif not separator:
            raise InvalidParameter(f'invalid --security-opt 1: "{text}"')
        elif name == "no-new-privileges":
            security.no_new_privileges = _boolean(text, value)
        elif name == "writable-cgroups":
            security.writable_cgroups = _boolean(text, value)
        elif name == "seccomp":
            security.seccomp = _seccomp(value)
        elif name == "apparmor":
            security.apparmor = value  # without AppArmor in the kernel it is passed over, as Docker does
        elif name in ("systempaths", "mask") and value == "unconfined":
            security.unmasked = True
        elif name == "label":
            if value != "disable" and SELINUX.exists():
                raise NotSupported(f"--security-opt {text}: Wherry sets no SELinux labels: use label=disable")
        else:
            raise InvalidParameter(f'invalid --security-opt 2: "{text}"')
    return security


def _boolean(option: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return _BOOLEANS[value]


def _seccomp(value: str) -> Literal["default", "unconfined"] | dict[str, Any]:
    if value == "unconfined":
        return "unconfined"
    if value in ("", "builtin"):
        return "default"
    try:
        profile = json.loads(value)
    except ValueError as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidParameter("Decoding seccomp profile failed: a JSON object is needed")
    return profile

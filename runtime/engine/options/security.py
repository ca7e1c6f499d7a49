"""Capabilities and `--security-opt`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from runtime.errors import InvalidParameter, NotSupported


def capabilities(option: str, names: Iterable[str]) -> list[str]:
    result = []
    for name in names:
        upper = name.upper()
        if not re.fullmatch(r"[A-Z_]+", upper):
            raise InvalidParameter(f"invalid {option}: unknown capability: {name!r}")
        result.append(upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}")
    return result


@dataclass
class _Security:
    no_new_privileges: bool = False
    unmasked: bool = False
    seccomp: Literal["default", "unconfined"] | dict[str, Any] = "default"


def security_options(options: Iterable[str]) -> _Security:
    security = _Security()
    for text in options:
        name, _, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
        if name == "no-new-privileges":
            security.no_new_privileges = value in ("", "true")
        elif name == "seccomp":
            security.seccomp = _seccomp(value)
        elif name == "systempaths" and value == "unconfined":
            security.unmasked = True
        elif name in ("label", "apparmor") and value in ("disable", "unconfined"):
            continue  # neither is in force here, so there is nothing to switch off
        else:
            raise NotSupported(f"--security-opt {text} is not supported by this version of Wherry: leave it out")
    return security


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

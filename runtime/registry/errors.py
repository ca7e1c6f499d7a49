"""What a registry answers when it will not, in the words moby passes on (distribution's errcode package)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

from runtime.errors import SystemFault

DENIED, UNAUTHORIZED = "DENIED", "UNAUTHORIZED"
NAME_UNKNOWN, MANIFEST_UNKNOWN, BLOB_UNKNOWN = "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"
TOO_MANY_REQUESTS = "TOOMANYREQUESTS"
RETRY_AFTER_S_MAX = 60  # hours, as some registries ask for, are nothing to wait for
UNREACHABLE = ""  # no answer of a registry at all

# What an answer without an error document stands for.
_BY_STATUS = {
    401: (UNAUTHORIZED, "authentication required"),
    403: (DENIED, "requested access to the resource is denied"),
    429: (TOO_MANY_REQUESTS, "too many requests to the registry: wait, or log in for a higher limit"),
}


class RegistryError(SystemFault):
    """`code` as in the distribution-spec's table of errors, UNREACHABLE for none; `status` of HTTP, 0 for none.

    `retry_after_s`: the pause a registry asks for that has too many requests; None when it is not worth waiting for.
    """

    def __init__(
        self, message: str, code: str = UNREACHABLE, status: int = 0, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether asking again may help."""
        return self.status == 0 or self.status >= 500


def answered(status: int, reason: str, what: str, document: Any, retry_after: str = "") -> RegistryError:
    """The error an answer stands for. `what`: method and URL, for answers that say nothing themselves.

    `retry_after`: the header of that name.
    """
    try:
        first = document["errors"][0]
        code, message = str(first["code"]), str(first.get("message") or "")
        if code == UNAUTHORIZED and not message:
            message = _BY_STATUS[401][1]
    except (KeyError, IndexError, TypeError, AttributeError):
        said = document.get("details") or document.get("message") if isinstance(document, dict) else None
        if status not in _BY_STATUS:
            return RegistryError(f"{what}: unexpected status from the registry: {status} {reason}", "UNKNOWN", status)
        code, message = _BY_STATUS[status][0], str(said or _BY_STATUS[status][1])
    pause_s = _pause_s(retry_after) if status == 429 else None
    return RegistryError(f"{code.lower().replace('_', ' ')}: {message}", code, status, pause_s)


def _pause_s(retry_after: str) -> float | None:
    """RFC 9110, "Retry-After": seconds, or a date."""
    if retry_after.strip().isdecimal():
        pause_s = float(retry_after)
    else:
        try:
            pause_s = max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return None
    return pause_s if pause_s <= RETRY_AFTER_S_MAX else None

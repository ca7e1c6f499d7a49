"""What a registry answers when it will not, in the words moby passes on (distribution's errcode package)."""

from __future__ import annotations

from typing import Any

from runtime.errors import SystemFault

DENIED, UNAUTHORIZED = "DENIED", "UNAUTHORIZED"
NAME_UNKNOWN, MANIFEST_UNKNOWN, BLOB_UNKNOWN = "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"
TOO_MANY_REQUESTS = "TOOMANYREQUESTS"
UNREACHABLE = ""  # no answer of a registry at all

# What an answer without an error document stands for.
_BY_STATUS = {
    401: (UNAUTHORIZED, "authentication required"),
    403: (DENIED, "requested access to the resource is denied"),
    429: (TOO_MANY_REQUESTS, "too many requests to the registry: wait, or log in for a higher limit"),
}


class RegistryError(SystemFault):
    """`code` as in the distribution-spec's table of errors, UNREACHABLE for none; `status` of HTTP, 0 for none."""

    def __init__(self, message: str, code: str = UNREACHABLE, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @property
    def may_pass(self) -> bool:
        """Whether asking again may help."""
        return self.status == 0 or self.status >= 500


def answered(status: int, reason: str, what: str, document: Any) -> RegistryError:
    """The error an answer stands for. `what`: method and URL, for answers that say nothing themselves."""
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
    return RegistryError(f"{code.lower().replace('_', ' ')}: {message}", code, status)

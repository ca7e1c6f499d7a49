"""The one table from kinds of error to HTTP statuses (Engine API, "Errors")."""

import errno
import json
import os

from runtime import errors
from runtime.api.http1 import Response
from runtime.engine import faults

# First match wins: subclasses stand before their bases.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.NotModified, 304),
    (errors.InvalidParameter, 400),
    (errors.Unauthorized, 401),
    (errors.PermissionDenied, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Cancelled, 499),
    (errors.NotSupported, 501),
    (errors.Unavailable, 503),
    (errors.WherryError, 500),
)


def status_of(error: Exception) -> int:
    if isinstance(error, errors.ProcessFault):
        return 400 if faults.is_of_the_request(error) else 500
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


# What to do about errors of the system that any request may meet.
REMEDIES = {
    errno.ENOSPC: "free some disk space and try again",
    errno.EDQUOT: "free some disk space and try again",
    errno.EROFS: "mount its disk for writing, and see in the kernel's log (dmesg) whether it has failed",
    errno.EIO: "see in the kernel's log (dmesg) what has failed",
    errno.EMFILE: "the engine has as many files open as it may: end some containers or clients, or raise its limit "
    "(LimitNOFILE= of its unit, ulimit -n)",
    errno.ENFILE: "this machine has as many files open as it may: raise the sysctl fs.file-max",
}


def message_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = f" ({error.filename})" if error.filename else ""
        return f"{os.strerror(error.errno).lower()}{where}: {REMEDIES[error.errno]}"
    return str(error) or type(error).__name__


def error_response(error: Exception) -> Response:
    body = json.dumps({"message": message_of(error)}).encode()
    return Response(status_of(error), body, {"Content-Type": "application/json"})

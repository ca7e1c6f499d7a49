"""The one table from kinds of error to HTTP statuses (Engine API, "Errors")."""

import errno
import json

from runtime import errors
from runtime.api.http1 import Response

# First match wins: subclasses stand before their bases.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.NotModified, 304),
    (errors.InvalidParameter, 400),
    (errors.ProcessFault, 400),
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
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def message_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on device ({error.filename or 'data root'}): free some disk space and try again"
    return str(error) or type(error).__name__


def error_response(error: Exception) -> Response:
    body = json.dumps({"message": message_of(error)}).encode()
    return Response(status_of(error), body, {"Content-Type": "application/json"})

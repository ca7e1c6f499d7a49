"""The kinds of error the runtime raises.

A kind says what the caller can do about it, not which module failed. `runtime.api.errors` maps kinds to
HTTP statuses in one table. The kernel layer (`runtime.linux`) raises plain `OSError` instead.
"""


class WherryError(Exception):
    """Base of every error meant for a person: `str(error)` is one sentence with the remedy in it."""


class InvalidParameter(WherryError):
    """The request itself is wrong; sending it again will not help."""


class NotFound(WherryError):
    """The object named in the request does not exist."""


class Conflict(WherryError):
    """The object's state does not allow this now."""


class AlreadyExists(Conflict):
    """The name is taken."""


class NotModified(WherryError):
    """The object is already in the wanted state."""


class PermissionDenied(WherryError):
    """The caller may not do this."""


class Unauthorized(WherryError):
    """The caller has not said who it is, or is not believed."""


class Unavailable(WherryError):
    """A part the request needs is not answering; trying again may help."""


class NotSupported(WherryError):
    """Wherry, or this kernel, cannot do this."""


class Cancelled(WherryError):
    """The caller went away or asked to stop."""


class SystemFault(WherryError):
    """The system refused something that should have worked."""


class ProcessFault(WherryError):
    """A container process could not be started.

    Carries what the init process reported: the `phase` it was in, the kernel's `errno` and a sentence.
    Rebuilt from `(phase, errno, message)` on this side of the launcher's socket.
    """

    def __init__(self, phase: str, errno: int, message: str) -> None:
        super().__init__(message)
        self.phase = phase
        self.errno = errno

"""What can go wrong between a client and an engine."""

from typing import Literal

from app.core.errors import UserError

# absent: nothing listens; denied: its socket may not be opened; silent: no answer in time; lost: the
# connection ended in the middle of an answer; address: the address itself is wrong.
Cause = Literal["absent", "denied", "silent", "lost", "address"]


class EngineError(UserError):
    """The engine answered, and said no.

    `status` is the HTTP status (404 no such object, 409 conflict with its state, 500 the engine's own
    fault); `message` is the engine's sentence, unchanged.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def is_not_found(self) -> bool:
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        return self.status == 409


class EngineUnreachable(UserError):
    """No engine answered at `host`, or it went away in the middle of an answer."""

    def __init__(self, host: str, cause: Cause, sentence: str, remedy: str) -> None:
        super().__init__(sentence, remedy)
        self.host = host
        self.cause: Cause = cause

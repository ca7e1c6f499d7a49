"""Exit codes, as `docker` has them."""

from app.engine.errors import EngineError

FAILED = 1
USAGE = 125
ENGINE_REFUSED = 125
CANNOT_RUN = 126
NOT_FOUND = 127
INTERRUPTED = 130


def of_refused_start(failure: EngineError) -> int:
    """What `run` and `exec` end with when the program could not be started: a shell's 127 and 126, else 125."""
    message = failure.message.lower()
    if "no such file or directory" in message or "not found in $path" in message:
        return NOT_FOUND
    if "permission denied" in message or "is a directory" in message or "exec format error" in message:
        return CANNOT_RUN
    return ENGINE_REFUSED

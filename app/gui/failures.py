"""Errors in words for people: what was not done, why, and what to do about it."""

import logging

from app.core.errors import UserError
from app.core.translations import tr
from app.engine.errors import EngineError, EngineUnreachable
from app.gui.connection import Failure

log = logging.getLogger(__name__)


def explain(error: Exception, attempt: str = "") -> Failure:
    """The failure that `error` is; `attempt` says what was wanted ("Could not start web")."""
    if isinstance(error, EngineUnreachable):
        sentence, remedy = _unreachable(error)
    elif isinstance(error, EngineError):
        sentence, remedy = error.message, _remedy(error)
    elif isinstance(error, UserError):
        sentence, remedy = error.sentence, error.remedy
    else:
        log.error("unexpected failure", exc_info=error)
        sentence = tr("Wherry made a mistake: {error}", error=repr(error))
        remedy = tr("Please report this; Wherry's log has the details.")
    return Failure(f"{attempt}: {sentence}" if attempt else sentence, remedy)


def _unreachable(error: EngineUnreachable) -> tuple[str, str]:
    """Sentence and remedy for a window; the error's own remedies are commands to type."""
    match error.cause:
        case "absent":
            return tr("No engine is running at {host}.", host=error.host), tr("Start it on the Machine page.")
        case "silent":
            return (
                tr("The engine at {host} did not answer in time.", host=error.host),
                tr("Restart it on the Machine page."),
            )
        case "lost":
            return tr("The engine ended the connection."), tr("It may have stopped: see the Machine page.")
    return error.sentence, error.remedy


def _remedy(error: EngineError) -> str:
    """What helps against the refusals people meet most; the engine itself only says what is wrong."""
    message = error.message.lower()
    if "port is already allocated" in message or "address already in use" in message:
        return tr("Stop what uses that port, or publish another one.")
    if "name" in message and "already in use" in message:
        return tr("Choose another name, or remove that container first.")
    if "no such image" in message:
        return tr("Load the image from a file on the Images page.")
    if "no such container" in message:
        return tr("It was removed in the meantime.")
    if error.is_conflict and "image" in message:
        return tr("Remove the containers made from it first.")
    return ""

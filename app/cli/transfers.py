"""A pull or a push as it goes on: one bar over all layers where there is a terminal, lines where there is none."""

import sys
from collections.abc import Iterable

from app.cli.progress import ByteBar
from app.engine.models import Progress

_MOVING = ("Downloading", "Pushing")
_LAST = ("Digest: ", "Status: ")


def show_transfer(title: str, messages: Iterable[Progress], quiet: bool) -> None:
    """Raises EngineError when it fails."""
    moved: dict[str, int] = {}
    totals: dict[str, int] = {}
    with ByteBar(title, None) as bar:
        for message in messages:
            if message.text in _MOVING and message.total_bytes:
                before = moved.get(message.id, 0)
                moved[message.id], totals[message.id] = message.current_bytes, message.total_bytes
                bar.expect(sum(totals.values()))
                bar.advance(message.current_bytes - before)
            elif not quiet and not bar.visible and message.text:
                _say(message)
            elif not quiet and message.text and (message.text.startswith(_LAST) or " digest: " in message.text):
                bar.pause()
                _say(message)


def _say(message: Progress) -> None:
    sys.stdout.write(f"{message.id}: {message.text}\n" if message.id else f"{message.text}\n")

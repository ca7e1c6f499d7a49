"""A pull or a push as it goes on: a line for each layer and one for all on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.cli.output import human_size
from app.engine.models import Progress

_MOVING = ("Downloading", "Pushing")
_DONE = ("Download complete", "Pull complete", "Already exists", "Pushed", "Layer already exists", "Mounted from")
_LAST = ("Digest: ", "Status: ", "Pulling from", "The push refers to")
_REDRAW_S = 0.1
_RATE_WINDOW_S = 5.0
_BAR_WIDTHS = (10, 30)
_LAYERS_LEAST = 3


@dataclass(slots=True)
class _Layer:
    status: str = ""
    done_bytes: int = 0
    total_bytes: int = 0

    @property
    def is_done(self) -> bool:
        return self.status.startswith(_DONE)

    @property
    def is_moving(self) -> bool:
        return self.status in _MOVING and self.total_bytes > 0


class Transfer:
    """What is known of the layers so far, and how fast they go."""

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._layers: dict[str, _Layer] = {}
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def take(self, message: Progress) -> bool:
        """False when the message is not about a layer."""
        if not message.id or message.text.startswith(_LAST):
            return False
        layer = self._layers.setdefault(message.id, _Layer())
        layer.status = message.text
        if message.total_bytes:
            layer.done_bytes, layer.total_bytes = message.current_bytes, message.total_bytes
        elif layer.is_done:
            layer.done_bytes = layer.total_bytes
        return True

    def lines(self, columns: int, rows: int) -> list[str]:
        """Layers that fit, the unfinished first to stay, and the sum of all."""
        shown = list(self._layers.items())
        room = max(rows - 2, _LAYERS_LEAST)
        if len(shown) > room:
            shown = sorted(shown, key=lambda item: (item[1].is_done, not item[1].is_moving))[:room]
        width = max(_BAR_WIDTHS[0], min(_BAR_WIDTHS[1], columns - 40))
        return [*(self._layer_line(id, layer, width)[:columns] for id, layer in shown), self._sum(width)[:columns]]

    def _layer_line(self, id: str, layer: _Layer, width: int) -> str:
        if not layer.is_moving:
            return f"{id:12}  {layer.status}"
        return f"{id:12}  {_bar(layer.done_bytes, layer.total_bytes, width)} {_share(layer)}"

    def _sum(self, width: int) -> str:
        layers = self._layers.values()
        done, total = sum(layer.done_bytes for layer in layers), sum(layer.total_bytes for layer in layers)
        if not total:
            return self._title
        rate = self._rate(done)
        text = f"{self._title}  {human_size(done)} of {human_size(total)}"
        if rate:
            text += f", {human_size(rate)}/s"
            # Layers that have not begun have told nothing of their size.
            if done < total and all(layer.total_bytes or layer.is_done for layer in layers):
                text += f", {_duration((total - done) / rate)} left"
        return text

    def _rate(self, done_bytes: int) -> float:
        """Bytes per second of the last while."""
        now_s = self._clock()
        self._samples.append((now_s, done_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.popleft()
        since_s, before = self._samples[0]
        return max(0.0, (done_bytes - before) / (now_s - since_s)) if now_s > since_s else 0.0


class _Board:
    """Lines at the bottom of a terminal that are drawn again and again, and gone in the end."""

    def __init__(self) -> None:
        self.visible = sys.stderr.isatty()
        self._height = 0
        self._drawn_s = 0.0

    def show(self, transfer: Transfer) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s < _REDRAW_S:
            return
        self._drawn_s = now_s
        size = shutil.get_terminal_size()
        lines = transfer.lines(size.columns - 1, size.lines)
        self.clear()
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
        self._height = len(lines)

    def clear(self) -> None:
        if self._height:
            sys.stderr.write(f"\x1b[{self._height}A\r\x1b[J")
            sys.stderr.flush()
            self._height = 0


def show_transfer(title: str, messages: Iterable[Progress], quiet: bool) -> None:
    """Raises EngineError when it fails."""
    board, transfer = _Board(), Transfer(title)
    try:
        for message in messages:
            about_layer = transfer.take(message)
            if quiet:
                continue
            if board.visible and about_layer:
                board.show(transfer)
            elif message.text and not (about_layer and message.total_bytes):
                board.clear()
                sys.stdout.write(f"{message.id}: {message.text}\n" if message.id else f"{message.text}\n")
                sys.stdout.flush()
    finally:
        board.clear()


def _bar(done_bytes: int, total_bytes: int, width: int) -> str:
    filled = min(width, width * done_bytes // total_bytes)
    return "█" * filled + "░" * (width - filled)


def _share(layer: _Layer) -> str:
    return f"{human_size(layer.done_bytes)} of {human_size(layer.total_bytes)}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"

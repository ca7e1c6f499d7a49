"""Use cases around images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from app.core.errors import UserError
from app.engine.client import EngineClient

OnBytes = Callable[[int], None]

_PIECE_BYTES = 1 << 20
_LOADED = ("Loaded image: ", "Loaded image ID: ")


def load_file(client: EngineClient, path: Path, on_bytes: OnBytes | None = None) -> list[str]:
    """Load the images of an archive; their references, or ids. `on_bytes(n)`: n more bytes are sent."""
    try:
        with path.open("rb") as archive:
            return load_stream(client, archive, on_bytes)
    except OSError as failed:
        raise UserError(f"{path} cannot be read: {failed.strerror}.") from failed


def load_stream(client: EngineClient, archive: BinaryIO, on_bytes: OnBytes | None = None) -> list[str]:
    """As `load_file`, from an open file or pipe."""
    loaded = []
    with client.load_images(_pieces(archive, on_bytes)) as messages:
        for message in messages:
            for prefix in _LOADED:
                if message.text.startswith(prefix):
                    loaded.append(message.text.removeprefix(prefix))
    return loaded


def _pieces(archive: BinaryIO, on_bytes: OnBytes | None) -> Iterator[bytes]:
    while piece := archive.read(_PIECE_BYTES):
        yield piece
        if on_bytes is not None:
            on_bytes(len(piece))


def save_stream(
    client: EngineClient, references: Sequence[str], out: BinaryIO, on_bytes: OnBytes | None = None
) -> None:
    """Write an archive of images to an open file or pipe."""
    response = client.save_images(references)
    try:
        while piece := response.read_some():
            out.write(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    finally:
        response.close()


def with_default_tag(name: str) -> str:
    """`name:latest` for a name with neither tag nor digest."""
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else f"{name}:latest"

"""`--cache-from` and `--cache-to`: caches in registries, and in directories of this computer as OCI layouts."""

import secrets
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.core.errors import UserError
from app.engine.client import EngineClient


def placed(sources: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """--cache-from as the engine reads it, and directories to send, by their names in the context. Raises UserError."""
    texts: list[str] = []
    directories: dict[str, str] = {}
    for source in sources:
        values = _values(source)
        if values.get("type") != "local":
            texts.append(source)
            continue
        directory = values.get("src", "")
        if not (Path(directory) / "index.json").is_file():
            raise UserError(f"--cache-from {source}: {directory or 'nothing'} is no exported cache.")
        place = f".wherry-cache-{secrets.token_hex(8)}"
        directories[place] = directory
        texts.append(f"type=local,src=directory:{place}")
    return texts, directories


def _values(text: str) -> dict[str, str]:
    """Empty for the name of an image."""
    return dict(part.partition("=")[::2] for part in text.split(",")) if "type=" in text else {}


def write_caches(client: EngineClient, image_id: str, targets: Sequence[str]) -> None:
    """Those of --cache-to that are directories. Raises UserError, EngineError."""
    for target in targets:
        values = _values(target)
        if values.get("type") == "local":
            _write(client, image_id, values.get("mode", "min"), Path(values.get("dest", "")))


def _write(client: EngineClient, image_id: str, mode: str, directory: Path) -> None:
    response = client.exported_cache(image_id, mode)
    try:
        with tempfile.TemporaryFile() as file:
            while data := response.read_some():
                file.write(data)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                archive.extractall(directory, filter="data")
    except OSError as failed:
        raise UserError(f"the cache cannot be written to {directory}: {failed.strerror or failed}.") from failed
    finally:
        response.close()

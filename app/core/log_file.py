"""The app's own log: a file that is rotated, so that it can stay on."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

MOST_BYTES = 1 << 20
KEPT_FILES = 3


def log_to(directory: Path, name: str, level: int = logging.INFO) -> Path:
    """Send what the process logs to `directory/name.log`; the file's path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.log"
    handler = RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    return path

"""On PYTHONPATH: a process whose wall clock is wrong by the seconds in a file, at any moment."""

import os
import time
from pathlib import Path

_now = time.time
_offset = Path(os.environ["WHERRY_FAKE_CLOCK_OFFSET"])


def _shifted() -> float:
    try:
        return _now() + float(_offset.read_text())
    except (OSError, ValueError):
        return _now()


time.time = _shifted

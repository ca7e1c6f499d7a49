"""Signals by name or number."""

from __future__ import annotations

import re
import signal

from runtime.errors import InvalidParameter


def parse_signal(text: str) -> int:
    """`SIGTERM`, `TERM` or `15` → 15; raises InvalidParameter (signal(7))."""
    upper = text.strip().upper()
    if upper.isdigit():
        number = int(upper)
    else:
        name = upper if upper.startswith("SIG") else f"SIG{upper}"
        if (match := re.fullmatch(r"SIGRTM(IN|AX)([+-]\d+)", name)) is not None:
            number = (signal.SIGRTMIN if match[1] == "IN" else signal.SIGRTMAX) + int(match[2])
        else:
            number = getattr(signal, name, 0) if name not in ("SIG_DFL", "SIG_IGN") else 0
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidParameter(f"invalid signal: {text}")
    return int(number)

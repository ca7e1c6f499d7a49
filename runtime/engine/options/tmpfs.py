"""Options of tmpfs mounts: `--tmpfs /run:size=64m,exec` and `--mount type=tmpfs,tmpfs-size=64m`."""

from __future__ import annotations

import re

from runtime.engine.options.model import Document
from runtime.errors import InvalidParameter

DEFAULTS = ("noexec", "nosuid", "nodev")

# Words `--tmpfs` takes, each with the one it replaces if that was said before it.
_FLAGS = {
    "ro": "rw",
    "rw": "ro",
    "exec": "noexec",
    "noexec": "exec",
    "suid": "nosuid",
    "nosuid": "suid",
    "dev": "nodev",
    "nodev": "dev",
    "sync": "async",
    "async": "sync",
    "atime": "noatime",
    "noatime": "atime",
    "diratime": "nodiratime",
    "nodiratime": "diratime",
    "relatime": "norelatime",
    "norelatime": "relatime",
    "strictatime": "nostrictatime",
    "nostrictatime": "strictatime",
    "defaults": "",
}
_PROPAGATIONS = {prefix + kind for prefix in ("", "r") for kind in ("private", "shared", "slave", "unbindable")}
_KEYS = {
    "size": re.compile(r"\d+[kKmMgGtTpPeE%]?"),
    "nr_blocks": re.compile(r"\d+[kKmMgGtTpPeE]?"),
    "nr_inodes": re.compile(r"\d+[kKmMgGtTpPeE]?"),
    "mode": re.compile(r"0*[0-7]{1,4}"),
    "uid": re.compile(r"\d+"),
    "gid": re.compile(r"\d+"),
    "mpol": re.compile(r"[a-z0-9=:,-]+"),
}


def tmpfs_flag_options(text: str) -> tuple[str, ...]:
    """Docker's defaults with the options of `--tmpfs` over them. Raises InvalidParameter."""
    if not isinstance(text, str):
        raise InvalidParameter("invalid Tmpfs: options are a string")
    return _over_defaults([option for option in text.split(",") if option])


def tmpfs_mount_options(options: Document, read_only: bool) -> tuple[str, ...]:
    """The same of a `--mount type=tmpfs`. Raises InvalidParameter."""
    words = ["ro"] if read_only else []
    mode, size_bytes = options.get("Mode") or 0, options.get("SizeBytes") or 0
    for value in (mode, size_bytes):
        if not isinstance(value, int) or value < 0:
            raise InvalidParameter(f"invalid tmpfs option {value!r}: a whole number of 0 or more is needed")
    words += [f"mode={mode:o}"] if mode else []
    words += [f"size={size_bytes}"] if size_bytes else []
    for option in options.get("Options") or []:
        if not isinstance(option, list) or not 1 <= len(option) <= 2:
            raise InvalidParameter("invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise InvalidParameter(f"invalid option: {option[0]}")
        words.append("=".join(option))
    return _over_defaults(words)


def _over_defaults(words: list[str]) -> tuple[str, ...]:
    merged = list(DEFAULTS)
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in _KEYS and _KEYS[key].fullmatch(value):
            merged = [other for other in merged if not other.startswith(f"{key}=")]
        elif word in _FLAGS or word in _PROPAGATIONS:
            merged = [other for other in merged if other not in (word, _FLAGS.get(word))]
        else:
            raise InvalidParameter(f'invalid tmpfs option ["{word}"]')
        merged.append(word)
    return tuple(merged)

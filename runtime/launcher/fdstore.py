"""Descriptors kept for an engine that may restart: by process, by name."""

import os
from collections.abc import Iterable, Mapping

Key = tuple[str, str]
"""(container id, exec id), "" for the container's own process."""


class FdStore:
    """Owns every descriptor put into it."""

    def __init__(self) -> None:
        self._kept: dict[Key, dict[str, int]] = {}

    def put(self, key: Key, fds: Mapping[str, int]) -> None:
        """Take over `fds`; one that replaces another of its name closes that."""
        kept = self._kept.setdefault(key, {})
        for name, fd in fds.items():
            if name in kept:
                os.close(kept[name])
            kept[name] = fd

    def get(self, key: Key) -> Mapping[str, int]:
        """What is kept for `key`; still the store's."""
        return self._kept.get(key, {})

    def drop(self, key: Key, names: Iterable[str]) -> None:
        """Close the descriptors of these names, where there are such."""
        kept = self._kept.get(key, {})
        for name in names:
            fd = kept.pop(name, None)
            if fd is not None:
                os.close(fd)

    def drop_all(self, key: Key) -> None:
        """Close everything kept for `key`."""
        for fd in self._kept.pop(key, {}).values():
            os.close(fd)

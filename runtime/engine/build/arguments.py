"""Build arguments: what --build-arg gives, what ARG takes of it, and those that are always there."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.dockerfile.platform_args import BUILDKIT_ARGS, PROXY_ARGS

SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH"


class BuildArguments:
    """The arguments of one build; remembers which the Dockerfile took."""

    def __init__(self, given: Mapping[str, str | None], platforms: Mapping[str, str]) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.platforms = dict(platforms)
        self._globals: dict[str, str] = {}
        self._taken: set[str] = set()

    def set_globals(self, values: Mapping[str, str]) -> None:
        """What the ARGs before the first FROM came to."""
        self._globals = dict(values)
        self._taken |= values.keys() & self.given.keys()

    def value(self, name: str, default: str | None) -> str | None:
        """What `ARG name=default` in a stage comes to; None leaves it unset."""
        self._taken.add(name)
        if name in self.given:
            return self.given[name]
        if default is not None:
            return default
        return self._globals.get(name, self.platforms.get(name))

    @property
    def proxies(self) -> dict[str, str]:
        """Set for RUN without ARG, and neither in the history nor in the cache's keys."""
        return {name: value for name, value in self.given.items() if name in PROXY_ARGS}

    def untaken(self) -> list[str]:
        return sorted(self.given.keys() - self._taken - PROXY_ARGS - BUILDKIT_ARGS)

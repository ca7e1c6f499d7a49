"""Contexts with names (`--build-context`): images and files that stand before stages and images of that name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from runtime.dockerfile.sources import Kind, classify_context
from runtime.dockerfile.stages import context_name
from runtime.engine.build import remote
from runtime.engine.build.context import Context
from runtime.errors import InvalidParameter, NotSupported

IMAGE = "docker-image://"
DIRECTORY = "directory:"  # in the tar of the build's context; ours


class NamedContexts:
    def __init__(self) -> None:
        self._images: dict[str, str] = {}
        self._files: dict[str, Context] = {}

    def __contains__(self, name: str) -> bool:
        return bool(self._images or self._files) and (context_name(name) in {*self._images, *self._files})

    def image(self, name: str) -> str:
        """The image meant by `name`: itself when it is no context's. Raises NotSupported for one of files."""
        if self.files(name):
            raise NotSupported(f"FROM {name}: the build context of that name has files, and only images are built upon")
        return self._images.get(context_name(name), name) if self._images else name

    def files(self, name: str) -> Context | None:
        return self._files.get(context_name(name)) if self._files else None

    async def fill(
        self,
        given: Mapping[str, str],
        main: Context,
        directory: Path,
        secrets: Mapping[str, bytes],
        opened: ExitStack,
    ) -> None:
        """`given` as in a BuildRequest. Raises InvalidParameter, NotSupported, and what `remote.fill` does."""
        for name, source in given.items():
            key = context_name(name)
            if source.startswith(IMAGE):
                self._images[key] = source.removeprefix(IMAGE)
                continue
            if source.startswith(DIRECTORY):
                self._files[key] = opened.enter_context(main.cut_out(source.removeprefix(DIRECTORY)))
                continue
            kind, git = classify_context(source)
            if kind is Kind.LOCAL:
                raise InvalidParameter(f"invalid context name {name}: {source} is neither {IMAGE}NAME nor a URL")
            self._files[key] = opened.enter_context(Context(directory))
            if await remote.fill(self._files[key], source, git, directory, secrets) is not None:
                raise InvalidParameter(f"the build context {name}: {source} is no archive")

"""`RUN --mount` and the scripts of here-documents: what a command gets that is no part of the image.

Caches are directories of the engine, by their id; the other things are made for one command and go with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import posixpath
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.content.snapshots import OverlayRootfs
from runtime.content.trash import Trash
from runtime.content.tree import data_size_bytes
from runtime.dockerfile.heredoc import Script
from runtime.dockerfile.model import RunMount
from runtime.engine.build import trees
from runtime.engine.build.agents import Agent, offered
from runtime.engine.build.context import Context
from runtime.engine.build.copying import Placement, copy
from runtime.engine.build.files import ContextFiles, Files, Item, TreeFiles, digest_of
from runtime.engine.spec_gen import HostMount
from runtime.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from runtime.engine.build.run import StepRunner

log = logging.getLogger(__name__)

SECRETS_DIRECTORY = "/run/secrets"
AGENT_SOCKET = "/run/buildkit/ssh_agent"
_UNFINISHED = ".new"
SCRIPT_DIRECTORY = "/dev/pipes"  # BuildKit's; in a tmpfs, so that nothing of it gets into a layer


@dataclass(frozen=True)
class CacheMount:
    """A directory that outlives builds. `used`: by a command, just now."""

    key: str
    path: Path
    size_bytes: int
    used: bool


class CacheDirectories:
    """The directories of `--mount=type=cache`. Several builds may be at work."""

    def __init__(self, directory: Path, trash: Trash) -> None:
        self._directory = directory
        self._trash = trash
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: dict[str, int] = {}
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def use(
        self, mount: RunMount, fill: Callable[[Path], Awaitable[None]] | None = None, origin: str = ""
    ) -> AsyncIterator[Path]:
        """With `locked` one at a time; with `private` one nobody else has at the moment.

        `fill` puts the first files into a new one, `origin` tells them from others. Raises what `fill` raises.
        """
        name = mount.id or posixpath.normpath(mount.target)
        key = hashlib.sha256((f"{name}\0{origin}" if origin else name).encode()).hexdigest()
        if mount.sharing == "private":
            number = 0
            while self._users.get(f"{key}-{number}"):
                number += 1
            key = f"{key}-{number}"
        async with contextlib.AsyncExitStack() as held:
            if mount.sharing == "locked":
                await held.enter_async_context(self._locks[key])
            self._users[key] = self._users.get(key, 0) + 1
            held.callback(self._leave, key)
            path = self._directory / key
            async with self._making[key]:
                if not path.is_dir():
                    await self._make(path, mount, fill)
            yield path

    async def _make(self, path: Path, mount: RunMount, fill: Callable[[Path], Awaitable[None]] | None) -> None:
        """It appears under its name once it is complete."""
        new = path.with_name(f"{path.name}{_UNFINISHED}")
        with contextlib.suppress(FileNotFoundError):
            self._trash.discard(new)
        new.mkdir()
        if fill:
            await fill(new)
        os.chown(new, mount.uid or 0, mount.gid or 0)
        new.chmod(0o755 if mount.mode is None else mount.mode)
        new.rename(path)

    def _leave(self, key: str) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]

    def all(self) -> list[CacheMount]:
        """Slow: their files are counted."""
        return [
            CacheMount(path.name, path, data_size_bytes(path), path.name in self._users)
            for path in sorted(self._directory.iterdir())
            if not path.name.endswith(_UNFINISHED)
        ]

    def prune(self) -> tuple[list[str], int]:
        """Remove those nobody uses; their keys and bytes."""
        unused = [cache for cache in self.all() if not cache.used]
        for cache in unused:
            self._trash.discard(cache.path)
        return [cache.key for cache in unused], sum(cache.size_bytes for cache in unused)


class Scratch:
    """A directory for things of one build or step; what a killed engine left is removed at the next start."""

    def __init__(self, directory: Path, trash: Trash) -> None:
        self._directory = directory
        self._trash = trash
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        for left in directory.iterdir():
            trash.discard(left)

    @contextlib.contextmanager
    def made(self) -> Iterator[Path]:
        path = self._directory / secrets.token_hex(8)
        path.mkdir(mode=0o711)
        try:
            yield path
        finally:
            self._trash.discard(path)


class UnpackedContext:
    """The context as files, once some step wants to mount it."""

    def __init__(self, context: Context, directory: Path) -> None:
        self._context = context
        self._directory = directory
        self._unpacking = asyncio.Lock()
        self._done = False

    async def path(self) -> Path:
        async with self._unpacking:
            if not self._done:
                await asyncio.to_thread(self._unpack)
                self._done = True
        return self._directory

    def _unpack(self) -> None:
        self._directory.mkdir(mode=0o755)
        top_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            groups = [(ContextFiles(self._context), [Item("", "", True)])]
            copy(top_fd, groups, Placement("/"), lambda path, is_directory: True)
        finally:
            os.close(top_fd)


@dataclass
class Extras:
    """What mounts add to a command. `targets` are where they are, to be cleaned up in the image."""

    mounts: list[HostMount] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    agents: int = 0


@dataclass(frozen=True)
class Source:
    """Where a bind mount's files come from: layers (top first), or a context."""

    lower: Sequence[str] = ()
    context: Context | None = None


class Provider:
    """Makes the mounts of RUN for one build."""

    def __init__(
        self,
        runner: StepRunner,
        caches: CacheDirectories,
        scratch: Path,
        place: Path,
        given_secrets: Mapping[str, bytes],
        agents: Mapping[str, Agent],
    ) -> None:
        self._runner = runner
        self._caches = caches
        self._unpacked: dict[Context, UnpackedContext] = {}
        self._scratch = scratch
        self._place = place
        self._secrets = given_secrets
        self._agents = agents

    async def digest(self, mount: RunMount, source: Source) -> str:
        """What of the content at a mount's source decides the result. Raises InvalidParameter."""
        path = mount.source.strip("/")

        def digest(files: Files) -> str:
            found, file = files.find(path)
            item = Item(found, posixpath.basename(found), file.kind == "directory")
            return digest_of(files, [item], lambda path, is_directory: True)

        try:
            if source.context:
                return await asyncio.to_thread(digest, ContextFiles(source.context))
            tree = OverlayRootfs(list(source.lower) or [str(self._place)], "", "")
            return await trees.visit([tree], self._place, lambda roots: digest(TreeFiles(roots[0])))
        except NotFound as error:
            raise InvalidParameter(f"RUN --mount=type={mount.type},source={mount.source}: {error}") from None

    @contextlib.asynccontextmanager
    async def provide(
        self,
        id: str,
        mounts: Sequence[tuple[RunMount, Source]],
        working_dir: str,
        script: Script | None,
    ) -> AsyncIterator[Extras]:
        """For the step `id`. Raises InvalidParameter, OSError."""
        extras = Extras()
        async with AsyncExitStack() as held:
            for mount, source in mounts:
                target = posixpath.normpath(posixpath.join(working_dir, mount.target)) if mount.target else ""
                if mount.type == "secret":
                    self._secret(id, mount, target, extras)
                    continue
                if mount.type == "ssh":
                    await self._agent(held, id, mount, target, extras)
                    continue
                extras.targets.append(target)
                if mount.type == "tmpfs":
                    size = () if mount.size_bytes is None else (f"size={mount.size_bytes}",)
                    extras.mounts.append(HostMount("tmpfs", target, ("nosuid", "nodev", *size), "tmpfs"))
                elif mount.type == "cache":
                    fill = partial(self._fill, mount, source) if mount.from_ else None
                    origin = await self.digest(mount, source) if mount.from_ else ""
                    path = await held.enter_async_context(self._caches.use(mount, fill, origin))
                    below = () if mount.from_ else _subpath(mount.source)
                    options = ("rbind", "rprivate", *(("ro",) if mount.read_only else ()), *below)
                    extras.mounts.append(HostMount(str(path), target, options, stored=True))
                else:
                    extras.mounts.append(await self._bind(held, mount, source, target))
            if script and script.interpreted:
                self._script(script, extras)
            yield extras

    async def _fill(self, mount: RunMount, source: Source, path: Path) -> None:
        """What a cache begins with. Raises InvalidParameter."""

        def work(roots: list[int]) -> None:
            files: Files = ContextFiles(source.context) if source.context else TreeFiles(roots[1])
            found, file = files.find(mount.source.strip("/"))
            if file.kind != "directory":
                raise InvalidParameter(f"RUN --mount=type=cache,source={mount.source}: it is not a directory")
            owner = (mount.uid or 0, mount.gid or 0)
            copy(roots[0], [(files, [Item(found, "", True)])], Placement("/", owner), lambda path, is_directory: True)

        trees_of = [OverlayRootfs([], str(path), "")]
        if not source.context:
            trees_of.append(OverlayRootfs(list(source.lower) or [str(self._place)], "", ""))
        await trees.visit(trees_of, self._place, work)

    async def _bind(self, held: AsyncExitStack, mount: RunMount, source: Source, target: str) -> HostMount:
        path = mount.source.strip("/")
        if source.context:
            path = source.context.resolve(path)
            directory = self._scratch / f"context-{len(self._unpacked)}"
            unpacked = self._unpacked.setdefault(source.context, UnpackedContext(source.context, directory))
            lower = [str(await unpacked.path())]
        else:
            lower = list(source.lower) or [str(self._place)]
        if mount.read_only and len(lower) == 1:  # overlayfs wants two layers
            return HostMount(lower[0], target, ("rbind", "ro", "rprivate", *_subpath(path)), stored=True)
        layers = [f"lowerdir+={layer}" for layer in lower]
        if mount.read_only:
            return HostMount("overlay", target, ("ro", *layers, *_subpath(path)), "overlay")
        upper = held.enter_context(self._runner.bare_snapshot())
        layers += [f"upperdir={upper.upper}", f"workdir={upper.work}"]
        return HostMount("overlay", target, (*layers, *_subpath(path)), "overlay")

    def _secret(self, id: str, mount: RunMount, target: str, extras: Extras) -> None:
        name = mount.id or mount.source or posixpath.basename(mount.target)
        if name not in self._secrets:
            if mount.required:
                raise InvalidParameter(f"secret {name}: not found")
            return
        data = self._secrets[name]
        if mount.env is not None:
            extras.env.append(f"{mount.env}={data.decode('utf-8', 'surrogateescape')}")
            if not target:
                return
        target = target or f"{SECRETS_DIRECTORY}/{name}"
        path = self._scratch_secret(id, extras, data)
        os.chown(path, mount.uid or 0, mount.gid or 0)
        path.chmod(0o400 if mount.mode is None else mount.mode)
        extras.mounts.append(HostMount(str(path), target, ("bind", "ro", "rprivate"), stored=True))
        extras.targets.append(target)

    async def _agent(self, held: AsyncExitStack, id: str, mount: RunMount, target: str, extras: Extras) -> None:
        """BuildKit's rules: nothing without the agent, unless it is required; SSH_AUTH_SOCK is the first one."""
        name = mount.id or "default"
        if name not in self._agents:
            if mount.required:
                raise InvalidParameter(f"unset ssh forward key {name}: `wherry build --ssh {name}` lends an agent")
            return
        target = target or f"{AGENT_SOCKET}.{extras.agents}"
        path = self._runner.file_path(id, f"agent-{extras.agents}")
        path.parent.mkdir(mode=0o710, exist_ok=True)
        mode = 0o600 if mount.mode is None else mount.mode
        await held.enter_async_context(offered(self._agents[name], path, (mount.uid or 0, mount.gid or 0), mode))
        extras.mounts.append(HostMount(str(path), target, ("bind", "rprivate")))
        extras.targets.append(target)
        if not extras.agents:
            extras.env.append(f"SSH_AUTH_SOCK={target}")
        extras.agents += 1

    def _scratch_secret(self, id: str, extras: Extras, data: bytes) -> Path:
        """In the step's bundle, which is in memory on most hosts."""
        path = self._runner.file_path(id, f"secret-{len(extras.mounts)}")
        path.parent.mkdir(mode=0o710, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path

    def _script(self, script: Script, extras: Extras) -> None:
        """Not in the bundle: /run is often mounted noexec."""
        path = self._scratch / f"script-{secrets.token_hex(4)}"
        path.write_text(script.text)
        path.chmod(0o755)
        target = f"{SCRIPT_DIRECTORY}/{script.name}"
        extras.mounts.append(HostMount(str(path), target, ("bind", "ro", "rprivate"), stored=True))


def _subpath(path: str) -> tuple[str, ...]:
    return (f"X-mount.subdir={path}",) if path.strip("/") else ()

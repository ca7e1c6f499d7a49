"""Builds as the engine offers them: the context taken in, images found or pulled, the cache looked after."""

from __future__ import annotations

import asyncio
import logging
import posixpath
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.content.compression import Readable
from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.snapshots import Snapshots
from runtime.content.trash import Trash
from runtime.dockerfile.errors import DockerfileError, excerpt
from runtime.dockerfile.ignore import Matcher, file_names, parse_file
from runtime.dockerfile.model import BuildPlan, Dockerfile
from runtime.dockerfile.parser import parse
from runtime.dockerfile.platform_args import global_args
from runtime.dockerfile.sources import Kind, classify_context
from runtime.dockerfile.stages import StageNames, plan
from runtime.engine.build import remote
from runtime.engine.build.agents import Agents
from runtime.engine.build.arguments import SOURCE_DATE_EPOCH, BuildArguments
from runtime.engine.build.build import Build
from runtime.engine.build.cache import BuildCache, CacheEntry
from runtime.engine.build.cache_export import BuiltSteps, CacheExporter
from runtime.engine.build.context import Context
from runtime.engine.build.mounts import CacheDirectories, Provider, Scratch
from runtime.engine.build.named import NamedContexts
from runtime.engine.build.output import BuildOutput, Message, Part, Pulling
from runtime.engine.build.request import BuildRequest
from runtime.engine.build.run import StepRunner
from runtime.engine.build.stage import Job
from runtime.engine.distribution.service import Distribution
from runtime.engine.events import Event, EventBus
from runtime.engine.platforms import check_platform
from runtime.engine.settings import EngineSettings
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci.image import Platform, parse_platform, platform_of_host, platform_text
from runtime.oci.reference import Reference
from runtime.oci.reference import parse as parse_reference

if TYPE_CHECKING:
    from runtime.registry.transport import Credentials

log = logging.getLogger(__name__)

DEFAULT_DOCKERFILE = "Dockerfile"
KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
LARGE_BYTES = 64 << 10  # of a Dockerfile that is read in a thread
FindCredentials = Callable[[str], "Credentials"]  # for a registry's host


class BuildService:
    def __init__(
        self,
        settings: EngineSettings,
        images: ImageStore,
        snapshots: Snapshots,
        cache: BuildCache,
        runner: StepRunner,
        distribution: Distribution,
        events: EventBus,
        trash: Trash,
    ) -> None:
        self.cache = cache
        self.agents = Agents()
        self.built = BuiltSteps(cache, images)
        self.on_end: Callable[[], None] = lambda: None
        self._settings = settings
        self._images = images
        self._snapshots = snapshots
        self._runner = runner
        self._distribution = distribution
        self._events = events
        self._directory = settings.data_root / "build"
        self._directory.mkdir(mode=0o711, exist_ok=True)
        self._scratch = Scratch(self._directory / "scratch", trash)
        self.caches = CacheDirectories(self._directory / "caches", trash)

    async def build(
        self, request: BuildRequest, body: Readable, credentials: FindCredentials
    ) -> AsyncIterator[Message]:
        """What the build tells, until it is done. Raises WherryError, OSError; closed early, it is cancelled.

        `body` is the context's tar, read in a thread.
        """
        references = [parse_reference(tag) for tag in request.tags]
        with ExitStack() as opened, Context(self._directory) as context:
            opened.callback(lambda: self.on_end())
            if request.remote:
                kind, git = classify_context(request.remote)
                if kind is Kind.LOCAL:
                    raise InvalidParameter(f'unable to prepare context: remote context "{request.remote}" is no URL')
                if git is not None and git.keep_git_dir is None:
                    git = replace(git, keep_git_dir=_keeps_git_dir(request))
                only = await remote.fill(context, request.remote, git, self._directory, request.secrets)
                if only is not None:
                    request = replace(request, dockerfile_text=only)
            else:
                await asyncio.to_thread(context.receive, body)
            exporter = CacheExporter(self.built, self._distribution.settings, credentials)
            imported = await exporter.imported(request.imports, context, opened)
            named = NamedContexts()
            await named.fill(request.contexts, context, self._directory, request.secrets, opened)
            agents = opened.enter_context(self.agents.taken(request.agents))
            text = _dockerfile_text(request, context)
            arguments = BuildArguments(request.build_args, _platform_arguments(request))
            if len(text) > LARGE_BYTES:
                dockerfile, steps = await asyncio.to_thread(_planned, text, request, arguments)
            else:
                dockerfile, steps = _planned(text, request, arguments)
            arguments.set_globals(steps.global_args)
            with self._images.ingest() as ingest, self._scratch.made() as scratch:
                place = self._settings.rootfs_dir
                mounts = Provider(self._runner, self.caches, scratch, place, request.secrets, agents)
                finder = _Finder(self._images, self._distribution, request, credentials)
                job = Job(
                    request,
                    dockerfile,
                    StageNames(dockerfile),
                    arguments,
                    context,
                    named,
                    self._runner,
                    self._snapshots,
                    self.cache,
                    ingest,
                    finder,
                    mounts,
                    place,
                    self._directory,
                    _epoch(arguments),
                    _count(dockerfile, steps, request),
                    self._cache_images(request),
                    imported,
                )
                async for message in self._run(job, steps, references, exporter):
                    yield message

    async def prune(
        self, wanted: Callable[[str, CacheEntry], bool], keep_bytes: int, mounts_too: bool
    ) -> tuple[list[str], int]:
        """As `BuildCache.prune`, and told. `mounts_too`: also the caches of RUN --mount that nobody uses now."""
        removed, freed_bytes = self.cache.prune(wanted, keep_bytes)
        if mounts_too:
            keys, more_bytes = await asyncio.to_thread(self.caches.prune)
            removed, freed_bytes = removed + keys, freed_bytes + more_bytes
        self._events.publish(Event("builder", "prune", "", {"reclaimed": str(freed_bytes)}))
        return removed, freed_bytes

    async def _run(
        self, job: Job, steps: BuildPlan, references: list[Reference], exporter: CacheExporter
    ) -> AsyncIterator[Message]:
        output = BuildOutput()
        running = asyncio.create_task(Build(job, steps, output, exporter).run(self._images, job.ingest, references))
        running.add_done_callback(lambda _: output.end())
        try:
            async for message in output.messages():
                yield message
            image_id = await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        for reference in references:
            self._events.publish(Event("image", "tag", image_id, {"name": reference.familiar()}))

    def _cache_images(self, request: BuildRequest) -> list[Image]:
        """Those of --cache-from that are here; others are passed over, as Docker does."""
        found = []
        for name in request.cache_from:
            try:
                found.append(self._images.get(name))
            except WherryError as error:
                log.info("--cache-from %s: %s", name, error)
        return found


class _Finder:
    """Base images, and those of --from: local, or pulled. One is looked for once in a build."""

    def __init__(
        self, images: ImageStore, distribution: Distribution, request: BuildRequest, credentials: FindCredentials
    ) -> None:
        self._images = images
        self._distribution = distribution
        self._request = request
        self._credentials = credentials
        self._found: dict[tuple[str, str], Image] = {}
        self._looking: dict[tuple[str, str], asyncio.Lock] = {}

    async def image(self, name: str, platform: str, part: Part) -> Image:
        key = name, platform
        async with self._looking.setdefault(key, asyncio.Lock()):
            if key not in self._found:
                self._found[key] = await self._find(name, platform, part)
            return self._found[key]

    async def _find(self, name: str, platform: str, part: Part) -> Image:
        try:
            image = self._images.get(name)
            for warning in check_platform(image, name, platform):
                await part.say(f" ---> [Warning] {warning}\n")
        except NotFound:
            image = None
        if image is not None and (not self._request.pull or name.startswith("sha256:")):
            return image
        await self._pull(parse_reference(name), parse_platform(platform) if platform else None, part)
        return self._images.get(name)

    async def _pull(self, reference: Reference, platform: Platform | None, part: Part) -> None:
        transfer = await self._distribution.pull(reference, platform, self._credentials(reference.domain))
        try:
            async for batch in transfer.batches():
                await part.tell(Pulling(batch))
            if transfer.error:
                raise transfer.error
        finally:
            self._distribution.end(transfer)


def _dockerfile_text(request: BuildRequest, context: Context) -> bytes:
    """Raises InvalidParameter in Docker's words."""
    name = request.dockerfile or DEFAULT_DOCKERFILE
    if request.dockerfile_text is not None:
        text = request.dockerfile_text
    else:
        if posixpath.normpath(name).startswith("../"):
            raise InvalidParameter(f"Forbidden path outside the build context: {name} ()")
        try:
            path = context.resolve(name)
        except NotFound:
            try:
                path = context.resolve(name.lower() if name == DEFAULT_DOCKERFILE else name)
            except NotFound:
                raise InvalidParameter(f"Cannot locate specified Dockerfile: {name}") from None
        file = context.files[path]
        if file.kind != "file":
            raise InvalidParameter(f"Cannot locate specified Dockerfile: {name}: it is not a file")
        text = context.read(file)
        _leave_out(context, path)
    if not text.strip():
        raise InvalidParameter(f"the Dockerfile ({name}) cannot be empty")
    return text


def _planned(text: bytes, request: BuildRequest, arguments: BuildArguments) -> tuple[Dockerfile, BuildPlan]:
    """A mistake found before anything is told is told with the part of the Dockerfile it is in."""
    try:
        dockerfile = parse(text)
        return dockerfile, plan(dockerfile, request.target, arguments.given, arguments.platforms, request.contexts)
    except DockerfileError as error:
        if error.location is None:
            raise
        source = text.decode("utf-8", "replace").removeprefix("\ufeff")
        shown = excerpt(source, error.location, posixpath.basename(request.dockerfile) or DEFAULT_DOCKERFILE)
        raise InvalidParameter(f"{error}\n{shown}") from None


def _leave_out(context: Context, dockerfile: str) -> None:
    """What the ignore file says of files that clients send all the same.

    They send the Dockerfile and the ignore files always, and not all of them know a Dockerfile's own ignore file.
    """
    names = file_names(dockerfile)
    found = next((name for name in names if (file := context.files.get(name)) and file.kind == "file"), None)
    if found is None:
        return
    matcher = Matcher(parse_file(context.read(context.files[found])))
    for path in list(context.files) if found == names[0] else (dockerfile, *names):
        if matcher.ignores(path):
            context.remove(path)


def _platform_arguments(request: BuildRequest) -> dict[str, str]:
    host = platform_of_host()
    target = parse_platform(request.platform) if request.platform else host
    return global_args(platform_text(host), platform_text(target), request.target)


def _epoch(arguments: BuildArguments) -> int | None:
    text = arguments.given.get(SOURCE_DATE_EPOCH, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {text}: seconds since 1970 are needed")
    return int(text)


def _keeps_git_dir(request: BuildRequest) -> bool:
    """The build argument BUILDKIT_CONTEXT_KEEP_GIT_DIR. Raises InvalidParameter."""
    text = request.build_args.get(KEEP_GIT_DIR) or ""
    if text.lower() not in ("", "0", "1", "f", "t", "false", "true"):
        raise InvalidParameter(f"invalid boolean value for {KEEP_GIT_DIR}: {text}")
    return text.lower() in ("1", "t", "true")


def _count(dockerfile: Dockerfile, steps: BuildPlan, request: BuildRequest) -> int:
    stages = [planned.stage for planned in steps.stages]
    return len(dockerfile.global_args) + sum(1 + len(stage.instructions) for stage in stages) + len(request.labels)

"""What `--cache-to` and `--cache-from` name with a type: caches exported after a build, and imported before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from runtime.content.archive import Writable
from runtime.content.images import ImageStore
from runtime.content.ingest import Ingest
from runtime.dockerfile.model import BuildPlan
from runtime.engine.build import cache_transfer
from runtime.engine.build.cache import BuildCache, CacheEntry, Recent
from runtime.engine.build.cache_documents import MODES, CacheSpec
from runtime.engine.build.cache_transfer import ImportedCache
from runtime.engine.build.context import Context
from runtime.engine.build.output import Part
from runtime.engine.threads import to_the_end
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci.reference import parse

if TYPE_CHECKING:
    from runtime.engine.build.stage import Job
    from runtime.registry.hosts import RegistrySettings
    from runtime.registry.transport import Credentials

log = logging.getLogger(__name__)

IMAGES_REMEMBERED = 64


class BuiltSteps:
    """The cache's keys of the images built last, for clients that keep caches themselves."""

    def __init__(self, cache: BuildCache, images: ImageStore) -> None:
        self._cache = cache
        self._images = images
        self._keys: Recent[list[str]] = Recent(IMAGES_REMEMBERED * len(MODES))

    def note(self, image_id: str, mode: str, keys: list[str]) -> None:
        self._keys.put((image_id, mode), keys)

    def writer(self, image_id: str, mode: str) -> Callable[[Writable], None]:
        """What writes the cache of an image as a tar, in a thread. Raises NotFound."""
        keys = self._keys.get((image_id, mode))
        if keys is None:
            raise NotFound(f"no build of {image_id} is remembered: build it again, and export its cache then")
        steps = self._cache.entries(keys)

        def write(out: Writable) -> None:
            with self._images.ingest() as ingest:
                cache_transfer.write_layout(_held(steps, ingest), ingest, out)

        return write


class CacheExporter:
    """For one build."""

    def __init__(
        self, built: BuiltSteps, settings: RegistrySettings, credentials: Callable[[str], Credentials]
    ) -> None:
        self._built = built
        self._settings = settings
        self._credentials = credentials

    async def export(self, job: Job, plan: BuildPlan, image_id: str, part: Part) -> None:
        """Raises what a registry answers, unless the request says to go on."""
        for mode in MODES:
            self._built.note(image_id, mode, _keys(job, plan, mode))
        for spec in job.request.exports:
            if spec.type == "registry":
                await part.say(f"Exporting cache to {spec.place}\n")
                steps = job.cache.entries(_keys(job, plan, spec.mode))
                work = asyncio.to_thread(self._push, spec, steps, job.ingest)
                try:
                    await to_the_end(asyncio.ensure_future(work))
                except (WherryError, OSError) as error:
                    if not spec.ignore_error:
                        raise
                    await part.say(f"[Warning] the cache has not been exported: {error}\n")

    def _push(self, spec: CacheSpec, steps: dict[str, CacheEntry], ingest: Ingest) -> None:
        reference = parse(spec.place)
        credentials = self._credentials(reference.domain)
        with cache_transfer.repository_of(reference, credentials, self._settings, pushing=True) as repository:
            cache_transfer.to_registry(repository, reference, _held(steps, ingest), ingest)

    async def imported(self, specs: Sequence[CacheSpec], context: Context, opened: ExitStack) -> list[ImportedCache]:
        """Those that can be read; the others are passed over, as BuildKit does."""
        found = []
        for spec in specs:
            try:
                if spec.type == "registry":
                    found.append(await to_the_end(asyncio.ensure_future(asyncio.to_thread(self._open, spec, opened))))
                elif spec.type == "local":
                    top = spec.place.removeprefix("directory:")
                    if top == spec.place:
                        raise InvalidParameter("a local cache comes with the context: use `wherry build`")
                    part = opened.enter_context(context.cut_out(top))
                    found.append(cache_transfer.from_context(part, ""))
            except (WherryError, OSError) as error:
                log.warning("the cache %s is not imported: %s", spec.place, error)
        return found

    def _open(self, spec: CacheSpec, opened: ExitStack) -> ImportedCache:
        reference = parse(spec.place)
        credentials = self._credentials(reference.domain)
        repository = opened.enter_context(cache_transfer.repository_of(reference, credentials, self._settings))
        return cache_transfer.from_registry(repository, reference)


def _keys(job: Job, plan: BuildPlan, mode: str) -> list[str]:
    wanted = set(job.used)
    if mode == "min":
        bases = {planned.stage.index: planned.base_stage for planned in plan.stages}
        wanted, stage = set[int](), plan.target
        while stage is not None and stage not in wanted:
            wanted.add(stage)
            stage = bases[stage]  # type: ignore[assignment]
    return [key for index in sorted(wanted) for key in job.used.get(index, ())]


def _held(steps: dict[str, CacheEntry], ingest: Ingest) -> dict[str, CacheEntry]:
    """Those whose layers are here, which stay until the end of the batch."""
    return {key: entry for key, entry in steps.items() if not entry.layer or ingest.has_blob(entry.layer["digest"])}

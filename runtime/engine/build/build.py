"""One build: its stages built, each as soon as those it needs are done, and the image of the last."""

from __future__ import annotations

import asyncio
import io
import logging

from runtime.content.images import ImageStore
from runtime.content.ingest import Ingest
from runtime.dockerfile.model import BuildPlan, PlannedStage
from runtime.engine.build.cache_export import CacheExporter
from runtime.engine.build.output import BuildOutput, Part, Text
from runtime.engine.build.stage import Job, StageBuild
from runtime.engine.build.state import StageState
from runtime.errors import InvalidParameter
from runtime.oci.reference import Reference

log = logging.getLogger(__name__)

SAVE_EVERY_S = 2.0  # what an engine that is killed loses of a build


class Build:
    def __init__(self, job: Job, plan: BuildPlan, output: BuildOutput, exporter: CacheExporter) -> None:
        self._job = job
        self._plan = plan
        self._exporter = exporter
        self._first = output.part()  # what comes before the first stage
        self._parts = {planned.stage.index: output.part() for planned in plan.stages}
        self._last = output.part()

    async def run(self, images: ImageStore, ingest: Ingest, references: list[Reference]) -> str:
        """The image's id. Raises WherryError, OSError; cancelled, it ends its steps and waits for that."""
        try:
            await self._say_globals()
            state = await self._stages()
            await self._warn()
        except BaseException:
            try:
                await self._save()
            except OSError as error:
                log.warning("what a failed build has done is not kept in the cache: %s", error)
            raise
        await self._save()
        if not state.image_id:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        image_id = await asyncio.to_thread(_finish, images, ingest, state, references)
        await self._exporter.export(self._job, self._plan, image_id, self._last)
        await self._say_end(image_id, references)
        return image_id

    async def _save(self) -> None:
        """Everything done so far goes into the cache, for the builds after this one and the engines after this one."""
        unsaved, self._job.unsaved = self._job.unsaved, []
        layers = [layer.chain_id for _, _, _, layer, _ in unsaved if layer]
        await asyncio.to_thread(self._job.ingest.seal, layers)
        for entry in unsaved:
            self._job.cache.put(*entry)

    async def _say_globals(self) -> None:
        for number, instruction in enumerate(self._job.dockerfile.global_args, start=1):
            await self._first.say(f"Step {number}/{self._job.total_steps} : {instruction.text}\n")
        await self._first.end()

    async def _stages(self) -> StageState:
        """Independent stages at the same time; the first failure ends the others."""
        tasks: dict[int, asyncio.Task[StageState]] = {}
        step = len(self._job.dockerfile.global_args)
        for planned in self._plan.stages:
            needed = [tasks[index] for index in planned.needs]
            tasks[planned.stage.index] = asyncio.create_task(self._stage(planned, needed, step))
            step += 1 + len(planned.stage.instructions)
        saving = asyncio.create_task(self._save_often())
        try:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
            failed = [planned for planned in self._plan.stages if _failure(tasks[planned.stage.index])]
            if failed:
                await self._stop(tasks)
                await self._show_until(failed[0])
                raise _failure(tasks[failed[0].stage.index]) or AssertionError
            return tasks[self._plan.target].result()
        finally:
            saving.cancel()
            await self._stop(tasks)
            await asyncio.gather(saving, return_exceptions=True)

    @staticmethod
    async def _stop(tasks: dict[int, asyncio.Task[StageState]]) -> None:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _show_until(self, failed: PlannedStage) -> None:
        """What the failed stage said has to be seen, though stages before it in the file have not ended."""
        for planned in self._plan.stages:
            await self._parts[planned.stage.index].end()
            if planned is failed:
                return

    async def _stage(
        self, planned: PlannedStage, needed: list[asyncio.Task[StageState]], first_step: int
    ) -> StageState:
        for task in needed:
            await asyncio.shield(task)
        job, part = self._job, self._parts[planned.stage.index]
        await part.say(f"Step {first_step + 1}/{job.total_steps} : {planned.stage.text}\n")
        build = StageBuild(job, planned, part, first_step + 1, await self._base(planned, part))
        is_target = planned.stage.index == self._plan.target
        state = await build.run(job.request.labels if is_target else {})
        job.states[planned.stage.index] = state
        await part.end()
        return state

    async def _base(self, planned: PlannedStage, part: Part) -> StageState:
        if planned.base_stage is not None:
            return self._job.states[planned.base_stage].child()
        if planned.base_image == "scratch":
            return StageState.scratch()
        platform = planned.platform or self._job.request.platform
        name = self._job.named.image(planned.base_image)
        return StageState.of_image(await self._job.finder.image(name, platform, part))

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            if self._job.unsaved:
                await self._save()

    async def _warn(self) -> None:
        untaken = self._job.arguments.untaken()
        if untaken:
            await self._last.say(f"[Warning] One or more build-args [{' '.join(untaken)}] were not consumed\n")

    async def _say_end(self, image_id: str, references: list[Reference]) -> None:
        await self._last.say(f"Successfully built {image_id.removeprefix('sha256:')[:12]}\n")
        for reference in references:
            await self._last.tell(Text(f"Successfully tagged {reference.familiar()}\n"))


def _failure(task: asyncio.Task[StageState]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


def _finish(images: ImageStore, ingest: Ingest, state: StageState, references: list[Reference]) -> str:
    """The image known under its names."""
    if not state.steps:
        for reference in references:
            images.tag(state.base_id, reference.familiar())
        return state.base_id
    manifest, config = state.documents()
    ingest.add_blob(io.BytesIO(config))
    return ingest.add_image(manifest, references, parent=state.base_id).id

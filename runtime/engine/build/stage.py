"""One stage of a build, step by step, as Docker's classic builder tells of it."""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runtime.content.image import Image
from runtime.content.ingest import Ingest, NewLayer
from runtime.content.merged import read_in_layers
from runtime.content.snapshots import OverlayRootfs, Snapshots
from runtime.content.users import GROUP_PATH, PASSWD_PATH, resolve_user
from runtime.dockerfile import model
from runtime.dockerfile.errors import DockerfileError, excerpt
from runtime.dockerfile.expansion import expand
from runtime.dockerfile.heredoc import Script, run_script
from runtime.dockerfile.mounts import parse_mount
from runtime.dockerfile.parser import parse_onbuild
from runtime.dockerfile.platform_args import PROXY_ARGS
from runtime.dockerfile.stages import StageNames
from runtime.engine import faults
from runtime.engine.build import copies, metadata, trees
from runtime.engine.build.arguments import BuildArguments
from runtime.engine.build.cache import LINKED, BuildCache, Hit, find_in_images, key_of
from runtime.engine.build.cache_transfer import ImportedCache
from runtime.engine.build.context import Context
from runtime.engine.build.copying import make_working_directory
from runtime.engine.build.expanding import expanded
from runtime.engine.build.mounts import SCRIPT_DIRECTORY, Provider, Source
from runtime.engine.build.named import NamedContexts
from runtime.engine.build.output import ImageMade, Part
from runtime.engine.build.request import BuildRequest
from runtime.engine.build.run import Command, StepRunner, clean_mount_points
from runtime.engine.build.state import StageState, timestamp
from runtime.engine.threads import to_the_end
from runtime.errors import InvalidParameter, PermissionDenied, ProcessFault, WherryError
from runtime.oci.image import History

INSECURE = "security.insecure"  # BuildKit's name of the permission


class CommandFailed(InvalidParameter):
    """A RUN that ended with another exit code than 0."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        super().__init__(f"The command '{' '.join(command)}' returned a non-zero code: {code}")
        self.code = code


class FindsImages(Protocol):
    async def image(self, name: str, platform: str, part: Part) -> Image:
        """Local, or pulled. Raises NotFound and what pulling raises."""


@dataclass
class Job:
    """What all stages of one build share."""

    request: BuildRequest
    dockerfile: model.Dockerfile
    names: StageNames
    arguments: BuildArguments
    context: Context
    named: NamedContexts
    runner: StepRunner
    snapshots: Snapshots
    cache: BuildCache
    ingest: Ingest
    finder: FindsImages
    mounts: Provider
    place: Path  # an empty directory, to mount on
    directory: Path  # for large things that go with the build
    epoch_s: int | None
    total_steps: int
    cache_images: list[Image] = field(default_factory=list)
    imported: list[ImportedCache] = field(default_factory=list)
    used: dict[int, list[str]] = field(default_factory=dict)  # the cache's keys, by stage
    states: dict[int, StageState] = field(default_factory=dict)  # of the stages that are done
    unsaved: list[tuple[str, str, History, NewLayer | None, str]] = field(default_factory=list)

    @property
    def latest_mtime_ns(self) -> int | None:
        return None if self.epoch_s is None else self.epoch_s * 10**9


class StageBuild:
    def __init__(self, job: Job, planned: model.PlannedStage, part: Part, first_step: int, state: StageState) -> None:
        self.job = job
        self.part = part
        self.state = state
        self._planned = planned
        self._step = first_step
        self._escape = job.dockerfile.directives.escape

    @property
    def index(self) -> int:
        return self._planned.stage.index

    async def run(self, labels: Mapping[str, str]) -> StageState:
        """Raises WherryError, OSError; the lines at fault have been shown then. `labels`: of the request."""
        triggers = self.state.settings.pop("OnBuild", None) or []
        if triggers:
            plural = "" if len(triggers) == 1 else "s"
            await self.part.say(f"# Executing {len(triggers)} build trigger{plural}\n")
            for expression in triggers:
                await self._do(parse_onbuild(expression, self._planned.stage))
        await self._say_id()
        for instruction in self._planned.stage.instructions:
            await self._announce(instruction.text)
            try:
                await self._do(instruction)
            except (WherryError, OSError) as error:
                await self._show(instruction.location, error)
                raise
            await self._say_id()
        for name, value in sorted(labels.items()):
            location = self._planned.stage.location
            label = model.Label(location=location, text="", pairs=(model.KeyValue(name, value),))
            await self._announce(f"LABEL {name}={value}")
            await self._do(label)
            await self._say_id()
        if self.state.image_id:
            await self.part.tell(ImageMade(self.state.image_id))
        return self.state

    async def _announce(self, text: str) -> None:
        self._step += 1
        await self.part.say(f"Step {self._step}/{self.job.total_steps} : {text}\n")

    async def _say_id(self) -> None:
        await self.part.say(f" ---> {self.state.image_id.removeprefix('sha256:')[:12]}\n")

    async def _show(self, location: model.Location, error: Exception) -> None:
        """The lines of the Dockerfile an error is about."""
        if isinstance(error, DockerfileError) and error.location:
            location = error.location
        name = posixpath.basename(self.job.request.dockerfile) or "Dockerfile"
        await self.part.say(f"{excerpt(self.job.dockerfile.source, location, name)}\n")

    async def _do(self, instruction: model.Instruction) -> None:
        if isinstance(instruction, model.Arg):
            await self._arg(instruction)
            return
        instruction = expanded(instruction, self.state.variables, self._escape)
        match instruction:
            case model.Run():
                await self._run(instruction)
            case model.Copy() | model.Add():
                await copies.perform(self, instruction)
            case model.Workdir():
                await self._workdir(instruction)
            case _:
                parent = self.state.image_id
                comment = metadata.apply(self.state, instruction)
                await self.commit(self.nop(comment, " "), parent, [], self._nothing, visible=True)

    @staticmethod
    async def _nothing() -> None:
        return None

    def nop(self, comment: str, space: str = "") -> str:
        """What the history says of a step that ran no command."""
        return f"{' '.join(self.state.shell)} #(nop) {space}{comment}"

    # --- one step's result, from the cache or made

    async def commit(
        self,
        created_by: str,
        parent: str,
        inputs: Sequence[Any],
        make: Callable[[], Awaitable[NewLayer | None]],
        visible: bool = False,
    ) -> None:
        """`inputs`: what besides `created_by` decides the result. `visible`: told as a step in a container.

        With the parent LINKED the layer is the same on whatever there is below it.
        """
        key = key_of(parent, created_by, self.job.epoch_s, inputs)
        self.job.used.setdefault(self.index, []).append(key)
        if hit := self._find(key, created_by) or await self._import(key, parent, created_by):
            await self.part.say(" ---> Using cache\n")
            layer = hit.layer
            if layer and parent == LINKED:
                layer = await to_the_end(
                    asyncio.ensure_future(asyncio.to_thread(self.job.ingest.layer_on, self.state.chain_ids, layer))
                )
            self.state.add(hit.history, layer)
            return
        shown = key[:12]
        if visible:
            await self.part.say(f" ---> Running in {shown}\n")
        layer = await make()
        if visible and not self.job.request.keep_intermediate:
            await self.part.say(f" ---> Removed intermediate container {shown}\n")
        history = History(created=timestamp(self.job.epoch_s), created_by=created_by)
        if self.state.author:
            history["author"] = self.state.author
        self.state.add(history, layer)
        self._note(key, parent, history, layer, created_by)

    def _find(self, key: str, created_by: str) -> Hit | None:
        request = self.job.request
        if request.no_cache:
            return None
        if not request.cache_from:
            return self.job.cache.find(key, self.job.ingest)
        found = find_in_images(self.job.cache_images, self.state.history, created_by)
        if found is None:
            return None
        if (layer := found[1]) and not (
            self.job.ingest.has_layer(layer.chain_id) and self.job.ingest.has_blob(layer.descriptor["digest"])
        ):
            return None  # the image has been removed meanwhile
        return Hit(key, *found)

    async def _import(self, key: str, parent: str, created_by: str) -> Hit | None:
        """From the caches that the request names. One that fails is told of, and nothing more."""
        if self.job.request.no_cache:
            return None
        for imported in self.job.imported:
            step = imported.steps.find(key, self.state.history, created_by)
            if step is None:
                continue
            below, ingest = self.state.chain_ids, self.job.ingest
            work = asyncio.to_thread(imported.layer, step, below, ingest)
            try:
                layer = await to_the_end(asyncio.ensure_future(work))
            except (WherryError, OSError) as error:
                await self.part.say(f" ---> [Warning] the imported cache has not been used: {error}\n")
                continue
            self._note(key, parent, step.history, layer, created_by)
            return Hit(key, step.history, layer)
        return None

    def _note(self, key: str, parent: str, history: History, layer: NewLayer | None, created_by: str) -> None:
        """For the cache, once it is saved."""
        self.job.unsaved.append((key, "" if parent == LINKED else parent, history, layer, created_by))

    async def take_layer(self, rootfs: OverlayRootfs, mount_targets: Sequence[str] = ()) -> NewLayer | None:
        """The changes as a layer, None if there are none."""
        below = self.state.chain_ids[-1] if self.state.chain_ids else ""

        def take() -> NewLayer | None:
            clean_mount_points(rootfs, mount_targets)
            if not os.listdir(rootfs.upper):
                return None
            return self.job.ingest.take_layer(below, Path(rootfs.upper), (), self.job.epoch_s)

        return await to_the_end(asyncio.ensure_future(asyncio.to_thread(take)))

    def lower(self, chain_ids: tuple[str, ...]) -> list[str]:
        """The directories of layers, top first."""
        return self.job.snapshots.layers(chain_ids)

    async def lower_of(self, name: str) -> list[str]:
        """Those of the stage or image that a `from` names. Raises InvalidParameter, and what finding images does."""
        index = None if name in self.job.named else self.job.names.source(name, self.index)
        if index is not None:
            return self.lower(self.job.states[index].chain_ids)
        if name.lower() == "scratch":
            raise InvalidParameter("invalid from flag value scratch: scratch has no files to copy")
        name = self.job.named.image(name)
        return self.lower((await self.job.finder.image(name, self.job.request.platform, self.part)).chain_ids)

    def context_of(self, name: str) -> Context | None:
        """The files that a `from` names: of the build's context for "", None for a stage or an image."""
        return self.job.named.files(name) if name else self.job.context

    def read_file(self, path: str) -> bytes | None:
        lower = self.lower(self.state.chain_ids)
        return read_in_layers(lower, None, path) if lower else None

    # --- instructions

    async def _arg(self, instruction: model.Arg) -> None:
        words = []
        parent = self.state.image_id
        for pair in instruction.pairs:
            variables = self.state.variables
            name = expand(pair.key, variables, self._escape)
            default = None if pair.value is None else expand(pair.value, variables, self._escape)
            value = self.job.arguments.value(name, default)
            if value is not None:
                self.state.args[name] = value
            words.append(name if default is None else f"{name}={default}")
        await self.commit(self.nop(f"ARG {' '.join(words)}", " "), parent, [], self._nothing, visible=True)

    async def _workdir(self, instruction: model.Workdir) -> None:
        state = self.state
        parent = state.image_id
        path = state.settings["WorkingDir"] = metadata.working_directory(state, instruction.path)

        async def make() -> NewLayer | None:
            user = resolve_user(
                state.settings.get("User") or "", self.read_file(PASSWD_PATH), self.read_file(GROUP_PATH)
            )
            latest_ns = self.job.latest_mtime_ns
            async with self.job.runner.snapshot(state.chain_ids) as (_, rootfs):
                owner = (user.uid, user.gid)
                await trees.visit(
                    [rootfs], self.job.place, lambda roots: make_working_directory(roots[0], path, owner, latest_ns)
                )
                return await self.take_layer(rootfs)

        await self.commit(self.nop(f"WORKDIR {path}"), parent, [], make, visible=True)

    async def _run(self, instruction: model.Run) -> None:
        state = self.state
        words, script = self._words(instruction)
        own = state.env
        build_env = {name: value for name, value in state.args.items() if name not in own and name not in PROXY_ARGS}
        shown = (
            [f"|{len(build_env)}", *(f"{name}={build_env[name]}" for name in sorted(build_env))] if build_env else []
        )
        env = [*(state.settings.get("Env") or []), *(f"{name}={value}" for name, value in build_env.items())]
        env += [f"{name}={value}" for name, value in self.job.arguments.proxies.items() if name not in own]
        host_config = dict(self.job.request.host_config)
        if instruction.network != "default":
            host_config["NetworkMode"] = instruction.network
        if instruction.security == "insecure":
            if INSECURE not in self.job.request.allowed:
                raise PermissionDenied(
                    f"{INSECURE} is not allowed: RUN --security=insecure has all rights on this machine, "
                    f"which `wherry build --allow {INSECURE}` gives it"
                )
            host_config["Privileged"] = True
        mounts = [await self._mount(text) for text in instruction.mounts]
        user, working_dir = state.settings.get("User") or "", state.working_dir

        async def make() -> NewLayer | None:
            async with self.job.runner.snapshot(state.chain_ids) as (id, rootfs):
                async with self.job.mounts.provide(id, mounts, working_dir, script) as extras:
                    command = Command(words, [*env, *extras.env], user, working_dir, host_config, extras.mounts)
                    try:
                        code = await self.job.runner.run(id, rootfs, command, self.part.pass_on)
                    except ProcessFault as fault:
                        raise faults.create_failed(fault) from None
                if code:
                    raise CommandFailed(words, code)
                return await self.take_layer(rootfs, extras.targets)

        inputs: list[Any] = [instruction.network, instruction.security, *(astuple(mount) for mount, _ in mounts)]
        inputs += [await self.job.mounts.digest(*one) for one in mounts if one[0].type == "bind"]
        if script and script.interpreted:
            inputs.append(script.text)
        await self.commit(" ".join([*shown, *words]), state.image_id, inputs, make, visible=True)

    def _words(self, instruction: model.Run) -> tuple[list[str], Script | None]:
        """What is executed, and the script it is when the kernel is to find its interpreter."""
        if not instruction.shell_form:
            return list(instruction.command), None
        script = run_script(instruction)
        if script.interpreted:
            return [f"{SCRIPT_DIRECTORY}/{script.name}"], script
        return metadata.command_words(self.state, [script.text], True), script

    async def _mount(self, text: str) -> tuple[model.RunMount, Source]:
        variables = self.state.variables
        mount = parse_mount(text, lambda word: expand(word, variables, self._escape))
        if mount.type != "bind" and not (mount.type == "cache" and mount.from_):
            return mount, Source()
        if context := self.context_of(mount.from_):
            return mount, Source(context=context)
        return mount, Source(await self.lower_of(mount.from_))

"""Which stages a target needs, in which order they can be built, and what each waits for."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from runtime.dockerfile import mounts
from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.expansion import Expanded, expanded
from runtime.dockerfile.model import (
    Arg,
    BuildPlan,
    Copy,
    Dockerfile,
    Instruction,
    Location,
    PlannedStage,
    Run,
    Stage,
)
from runtime.dockerfile.wording import did_you_mean, quoted
from runtime.errors import InvalidParameter
from runtime.oci.reference import parse

SCRATCH = "scratch"


def plan(
    dockerfile: Dockerfile,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    platform_args: Mapping[str, str] | None = None,
    contexts: Iterable[str] = (),
) -> BuildPlan:
    """The stages that `target` (a name or an index; "" is the last stage) needs.

    `platform_args` come from `platform_args.global_args`. `contexts` are names given with --build-context, which
    stand before stages and images of that name. Raises DockerfileError: unknown target, a cycle, an empty FROM.
    """
    values = global_values(dockerfile, build_args or {}, platform_args or {})
    scope = {**(platform_args or {}), **values}
    graph = _Graph(dockerfile, scope, frozenset(map(context_name, contexts)))
    index = target_index(dockerfile, target)
    order = graph.order(index)
    return BuildPlan(tuple(graph.planned(number) for number in order), index, values)


def target_index(dockerfile: Dockerfile, target: str) -> int:
    """The index of the stage `target` names; the last stage for "". Raises DockerfileError."""
    if not target:
        return len(dockerfile.stages) - 1
    names = {stage.name: stage.index for stage in dockerfile.stages if stage.name}
    wanted = target.lower()
    if wanted in names:
        return names[wanted]
    if target.isascii() and target.isdigit() and len(target) < 9 and int(target) < len(dockerfile.stages):
        return int(target)
    raise DockerfileError(did_you_mean(f"target stage {quoted(target)} could not be found", wanted, names))


def global_values(
    dockerfile: Dockerfile, build_args: Mapping[str, str], platform_args: Mapping[str, str]
) -> dict[str, str]:
    """The ARGs before the first FROM, each from the build arguments or its default. Those without either are left out.

    Raises DockerfileError.
    """
    values: dict[str, str] = {}
    for arg in dockerfile.global_args:
        for pair in arg.pairs:
            scope = {**platform_args, **values}
            key = _expanded(pair.key, scope, dockerfile, arg.location).text
            if key in build_args:
                values[key] = build_args[key]
            elif pair.value is not None:
                values[key] = _expanded(pair.value, scope, dockerfile, arg.location).text
    return values


class StageNames:
    """Stages by name; several may have the same."""

    def __init__(self, dockerfile: Dockerfile) -> None:
        self._count = len(dockerfile.stages)
        self._indexes: dict[str, list[int]] = {}
        for stage in dockerfile.stages:
            if stage.name:
                self._indexes.setdefault(stage.name, []).append(stage.index)

    def before(self, reference: str, before: int) -> int | None:
        """The index of the last stage before stage `before` that `reference` names, None for an image."""
        indexes = self._indexes.get(reference.lower(), [])
        place = bisect_left(indexes, before)
        return indexes[place - 1] if place else None

    def source(self, reference: str, user: int) -> int | None:
        """The index of the stage that `--from=reference` in stage `user` names, by name or number; None for an image.

        A name that only a later stage has is found as well: that is a cycle, or copied from when it is none.
        """
        found = self.before(reference, user)
        if found is not None:
            return found
        if reference.isascii() and reference.isdigit() and len(reference) < 9:
            number = int(reference)
            return number if number < self._count else None
        return next(iter(self._indexes.get(reference.lower(), ())), None)


def context_name(name: str) -> str:
    """A name of --build-context, or what may be one, in one spelling: `alpine` is `docker.io/library/alpine:latest`."""
    try:
        return parse(name).familiar().removesuffix(":latest")
    except InvalidParameter:
        return name.lower()


def sources_of(instruction: Instruction) -> list[str]:
    """What `instruction` takes files from by --from: stages, contexts or images, as written."""
    if isinstance(instruction, Copy):
        return [instruction.from_] if instruction.from_ else []
    if isinstance(instruction, Run):
        return [source for mount in instruction.mounts if (source := mounts.from_of(mount))]
    return []


def _expanded(word: str, scope: Mapping[str, str], dockerfile: Dockerfile, location: Location) -> Expanded:
    try:
        return expanded(word, scope, dockerfile.directives.escape)
    except DockerfileError as error:
        raise DockerfileError(str(error), location) from error


class _Graph:
    def __init__(self, dockerfile: Dockerfile, scope: Mapping[str, str], contexts: frozenset[str]) -> None:
        self._dockerfile = dockerfile
        self._names = StageNames(dockerfile)
        self._contexts = contexts
        self._bases: list[tuple[int | None, str, str]] = []
        """For each stage: the stage it begins with, or the image; and its platform."""
        self._sources: list[dict[int, Location]] = []
        """For each stage: the stages it copies or mounts from, with the first instruction that does."""
        self._images: list[list[str]] = []
        for stage in dockerfile.stages:
            self._bases.append(self._base(stage, scope))
            self._add_sources(stage)

    def _base(self, stage: Stage, scope: Mapping[str, str]) -> tuple[int | None, str, str]:
        name = _expanded(stage.base, scope, self._dockerfile, stage.location).text
        if not name:
            raise DockerfileError(f"base name ({stage.base}) should not be blank", stage.location)
        platform = ""
        if stage.platform:
            platform = _expanded(stage.platform, scope, self._dockerfile, stage.location).text
            if not platform:
                message = f"empty platform value from expression {stage.platform}"
                raise DockerfileError(message, stage.location)
        if self._contexts and context_name(name) in self._contexts:
            return None, name, platform
        return self._names.before(name, stage.index), name, platform

    def _add_sources(self, stage: Stage) -> None:
        sources: dict[int, Location] = {}
        images: list[str] = []
        for instruction in stage.instructions:
            for reference in sources_of(instruction):
                index = None
                if not self._contexts or context_name(reference) not in self._contexts:
                    index = self._source(stage, reference, instruction.location)
                if index is None:
                    images.append(reference)
                else:
                    sources.setdefault(index, instruction.location)
        self._sources.append(sources)
        self._images.append(list(dict.fromkeys(images)))

    def _source(self, stage: Stage, reference: str, location: Location) -> int | None:
        index = self._names.source(reference, stage.index)
        if index is None and reference.isascii() and reference.isdigit():
            raise DockerfileError(f"invalid stage index {reference}", location)
        return index

    def _needs(self, index: int) -> dict[int, Location]:
        base = self._bases[index][0]
        own = {} if base is None else {base: self._dockerfile.stages[index].location}
        return {**own, **self._sources[index]}

    def order(self, target: int) -> list[int]:
        """`target` and all it needs, each after its needs. Raises DockerfileError for a cycle anywhere in the file."""
        placed: dict[int, None] = {}
        for stage in self._dockerfile.stages:
            self._visit(stage, placed)
        needed = {target}
        for index in reversed(placed):
            if index in needed:
                needed.update(self._needs(index))
        return [index for index in placed if index in needed]

    def _visit(self, start: Stage, placed: dict[int, None]) -> None:
        """Depth first, without recursion: a file may have thousands of stages."""
        if start.index in placed:
            return
        path = {start.index: iter(sorted(self._needs(start.index)))}
        while path:
            index, needs = next(reversed(path.items()))
            following = next((need for need in needs if need not in placed), None)
            if following is None:
                placed[index] = None
                del path[index]
            elif following in path:
                location = next(iter(self._sources[start.index].values()), start.location)
                raise DockerfileError(f"circular dependency detected on stage: {start.label}", location)
            else:
                path[following] = iter(sorted(self._needs(following)))

    def planned(self, index: int) -> PlannedStage:
        base_stage, base, platform = self._bases[index]
        return PlannedStage(
            stage=self._dockerfile.stages[index],
            base_stage=base_stage,
            base_image="" if base_stage is not None else base,
            platform=platform,
            needs=tuple(sorted(self._needs(index))),
            images=tuple(self._images[index]),
        )


def declared_args(dockerfile: Dockerfile) -> set[str]:
    """Every name any ARG of the file declares."""
    args: list[Arg] = [*dockerfile.global_args]
    for stage in dockerfile.stages:
        args += [instruction for instruction in stage.instructions if isinstance(instruction, Arg)]
    return {pair.key for arg in args for pair in arg.pairs}

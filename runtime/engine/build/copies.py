"""COPY and ADD of a stage: where files come from, what of them decides the result, and the layer they become."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runtime.content.compression import decompressed
from runtime.content.ingest import NewLayer
from runtime.content.snapshots import OverlayRootfs
from runtime.content.tar_reader import TarReader
from runtime.content.users import GROUP_PATH, PASSWD_PATH, resolve_user
from runtime.dockerfile.ignore import Matcher
from runtime.dockerfile.model import Add, Copy, Heredoc
from runtime.dockerfile.permissions import parse_chmod
from runtime.dockerfile.sources import Kind, check_checksum, classify
from runtime.engine.build import remote, trees
from runtime.engine.build.cache import LINKED, Recent
from runtime.engine.build.context import Context
from runtime.engine.build.copying import ChangeMode, Placement, copy, unpack
from runtime.engine.build.files import ContextFiles, Files, Item, Keep, MemoryFiles, TreeFiles, digest_of, select
from runtime.engine.build.repositories import clone
from runtime.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from runtime.engine.build.stage import StageBuild


@dataclass(frozen=True)
class _Selection:
    items: Sequence[Item]
    digest: str


async def perform(stage: StageBuild, instruction: Copy | Add) -> None:
    """Raises InvalidParameter in the words of Docker, NotFound, OSError."""
    name = "ADD" if isinstance(instruction, Add) else "COPY"
    elsewhere = [source for source in instruction.sources if classify(source)[0] is not Kind.LOCAL]
    if elsewhere and name == "COPY":
        raise InvalidParameter("COPY failed: source can't be a URL for COPY")
    if isinstance(instruction, Add) and instruction.checksum:
        if len(instruction.sources) != 1:
            raise InvalidParameter("checksum can only be specified for a single source")
        check_checksum(instruction.checksum, instruction.sources[0])
    with ExitStack() as fetched:
        places = [await _fetch(stage, instruction, source, fetched) for source in elsewhere]
        await _perform(stage, instruction, name, places)


async def _perform(
    stage: StageBuild, instruction: Copy | Add, name: str, fetched: Sequence[tuple[Context, Item]]
) -> None:
    keep = _keeping(instruction.exclude)
    parents = instruction.parents if isinstance(instruction, Copy) else False
    from_ = instruction.from_ if isinstance(instruction, Copy) else ""
    context = stage.context_of(from_)
    tree = None if context else await _tree(stage, from_)
    destination = _destination(stage, instruction.destination)
    made = MemoryFiles({one.name: one.content.encode() for one in instruction.heredocs})
    count = len(instruction.sources) + len(instruction.heredocs)
    try:
        local = tuple(source for source in instruction.sources if classify(source)[0] is Kind.LOCAL)
        chosen = await _select(stage, tree or context, replace(instruction, sources=local), parents, keep)
    except NotFound as error:
        raise _missing(name, error, not from_) from None
    if max(len(chosen.items), count) > 1 and not destination.endswith("/"):
        raise InvalidParameter(
            f"When using {name} with more than one source file, the destination must be a directory and end with a /"
        )
    inline = _inline(made, instruction.heredocs)
    owner_text = f"--chown={instruction.chown} " if instruction.chown else ""
    mode_text = f"--chmod={instruction.chmod} " if instruction.chmod else ""
    downloads = [digest_of(ContextFiles(context), [item], keep) for context, item in fetched]
    digests = ",".join(filter(None, (chosen.digest, inline.digest, *downloads)))
    created_by = stage.nop(f"{name} {owner_text}{mode_text}{digests} in {destination} ")
    owner = _owner(stage, instruction.chown)
    change_mode = _change_mode(instruction.chmod)
    placement = Placement(destination, owner, change_mode, stage.job.latest_mtime_ns)
    unpacks = isinstance(instruction, Add) and instruction.unpack is not False
    unpacks_downloads = isinstance(instruction, Add) and bool(instruction.unpack)

    async def make() -> NewLayer | None:
        async with stage.job.runner.snapshot(() if instruction.link else stage.state.chain_ids) as (_, rootfs):

            def work(roots: list[int]) -> None:
                files: Files = ContextFiles(context) if context else TreeFiles(roots[1])
                items = list(chosen.items)
                if context and unpacks:
                    items = [item for item in items if not _unpack(context, roots[0], item, placement)]
                groups = [(files, items), (made, inline.items)]
                for source, item in fetched:
                    if not (unpacks_downloads and _unpack(source, roots[0], item, placement)):
                        groups.append((ContextFiles(source), [item]))
                copy(roots[0], groups, placement, keep)

            await trees.visit([rootfs, tree] if tree else [rootfs], stage.job.place, work)
            return await stage.take_layer(rootfs)

    inputs = [owner, unpacks, unpacks_downloads, parents, [item.kept_parents for item in chosen.items]]
    await stage.commit(created_by, LINKED if instruction.link else stage.state.image_id, inputs, make)


async def _fetch(stage: StageBuild, instruction: Copy | Add, source: str, opened: ExitStack) -> tuple[Context, Item]:
    """A URL or repository of ADD. Raises what `remote` does, InvalidParameter for another checksum."""
    context = opened.enter_context(Context(stage.job.directory))
    checksum = instruction.checksum if isinstance(instruction, Add) else ""
    keep_git_dir = instruction.keep_git_dir if isinstance(instruction, Add) else None
    _, git = classify(source)
    if git is not None:
        wanted = replace(
            git,
            keep_git_dir=git.keep_git_dir if keep_git_dir is None else keep_git_dir,
            checksum=checksum or git.checksum,
        )
        await clone(wanted, context, stage.job.directory, stage.job.request.secrets)
        return context, Item("", "", True)
    name = "" if instruction.destination.endswith("/") else posixpath.basename(instruction.destination) or ""
    await stage.part.say(f"Downloading {source}\n")
    name, _ = await remote.download(source, context, name)
    if checksum:
        await asyncio.to_thread(_verify, context, name, checksum)
    return context, Item(name, name, False)


def _verify(context: Context, name: str, checksum: str) -> None:
    """Raises InvalidParameter for another content than that."""
    algorithm = checksum.partition(":")[0]
    with context.open(context.files[name]) as stream:
        found = f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"
    if found != checksum:
        raise InvalidParameter(f"digest mismatch {found}: {checksum}")


def _keeping(exclude: Sequence[str]) -> Keep:
    matcher = Matcher(exclude)
    return lambda path, is_directory: not matcher.ignores(path)


async def _tree(stage: StageBuild, name: str) -> OverlayRootfs:
    """The files of a stage or an image, for reading."""
    return OverlayRootfs(await stage.lower_of(name) or [str(stage.job.place)], "", "")


def _destination(stage: StageBuild, written: str) -> str:
    is_directory = written.endswith(("/", "/.")) or written == "."
    path = posixpath.normpath(posixpath.join("/", stage.state.working_dir, written))
    path = "/" + path.strip("/")
    return path + "/" if is_directory and path != "/" else path


async def _select(
    stage: StageBuild, place: OverlayRootfs | Context | None, instruction: Copy | Add, parents: bool, keep: Keep
) -> _Selection:
    sources = instruction.sources
    if not sources or place is None:
        return _Selection([], "")

    def chosen(files: Files) -> _Selection:
        found = select(files, sources, parents)
        if not found:
            raise NotFound("no source files were specified")  # for every wildcard
        items = [item for item in found if keep(item.path, item.is_directory)]
        return _Selection(items, digest_of(files, items, keep))

    if isinstance(place, Context):
        return await asyncio.to_thread(chosen, ContextFiles(place))
    known: Recent[_Selection] = stage.job.cache.digests
    key = (tuple(place.lower), sources, instruction.exclude, parents)
    if (selection := known.get(key)) is None:
        selection = await trees.visit([place], stage.job.place, lambda roots: chosen(TreeFiles(roots[0])))
        known.put(key, selection)
    return selection


def _inline(files: MemoryFiles, heredocs: Sequence[Heredoc]) -> _Selection:
    if not heredocs:
        return _Selection([], "")
    items = [Item(one.name, one.name, False) for one in heredocs]
    return _Selection(items, digest_of(files, items, _keeping(())))


def _missing(name: str, error: NotFound, in_context: bool) -> InvalidParameter:
    what = str(error).partition('"/')[2].partition('"')[0]
    if not what:
        return InvalidParameter(f"{name} failed: {error}")
    if in_context:
        return InvalidParameter(
            f"{name} failed: file not found in build context or excluded by .dockerignore: stat {what}: "
            "file does not exist"
        )
    return InvalidParameter(f"{name} failed: stat {what}: file does not exist")


def _owner(stage: StageBuild, chown: str) -> tuple[int, int]:
    """A number alone is the group too (Dockerfile reference, "COPY --chown")."""
    if not chown:
        return 0, 0
    if chown.isascii() and chown.isdigit():
        chown = f"{chown}:{chown}"
    try:
        user = resolve_user(chown, stage.read_file(PASSWD_PATH), stage.read_file(GROUP_PATH))
    except InvalidParameter as error:
        raise InvalidParameter(f"unable to convert uid/gid chown string to host mapping: {error}") from None
    return user.uid, user.gid


def _change_mode(chmod: str) -> ChangeMode | None:
    if not chmod:
        return None
    mode = parse_chmod(chmod)
    return lambda before, is_directory: mode.apply(before, is_directory=is_directory)


def _unpack(context: Context, root_fd: int, item: Item, placement: Placement) -> bool:
    """Whether it was an archive, and is unpacked now."""
    if item.is_directory:
        return False
    file = context.files[item.path]
    try:
        plain, _ = decompressed(context.open(file))
        if next(iter(TarReader(plain)), None) is None and not file.size:
            return False
    except InvalidParameter:
        return False
    owner = placement.owner if placement.owner != (0, 0) else None
    unpack(root_fd, context.open(file).read, placement, owner)
    return True

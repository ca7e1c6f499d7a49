"""COPY and ADD of a stage: where files come from, what of them decides the result, and the layer they become."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.content.compression import decompressed
from runtime.content.images import NewLayer
from runtime.content.snapshots import OverlayRootfs
from runtime.content.tar_reader import TarReader
from runtime.content.users import GROUP_PATH, PASSWD_PATH, resolve_user
from runtime.dockerfile.ignore import Matcher
from runtime.dockerfile.model import Add, Copy, Heredoc
from runtime.dockerfile.permissions import parse_chmod
from runtime.engine.build import trees
from runtime.engine.build.cache import Recent
from runtime.engine.build.copying import ChangeMode, Placement, copy, unpack
from runtime.engine.build.files import ContextFiles, Files, Item, Keep, MemoryFiles, TreeFiles, digest_of, select
from runtime.errors import InvalidParameter, NotFound, NotSupported

if TYPE_CHECKING:
    from runtime.engine.build.stage import StageBuild

_REMOTE = ("http://", "https://", "git://", "git@", "ssh://")


@dataclass(frozen=True)
class _Selection:
    items: Sequence[Item]
    digest: str


async def perform(stage: StageBuild, instruction: Copy | Add) -> None:
    """Raises InvalidParameter in the words of Docker, NotFound, OSError."""
    name = "ADD" if isinstance(instruction, Add) else "COPY"
    _check(instruction, name)
    keep = _keeping(instruction.exclude)
    parents = instruction.parents if isinstance(instruction, Copy) else False
    tree = await _tree(stage, instruction.from_) if isinstance(instruction, Copy) and instruction.from_ else None
    destination = _destination(stage, instruction.destination)
    made = MemoryFiles({one.name: one.content.encode() for one in instruction.heredocs})
    count = len(instruction.sources) + len(instruction.heredocs)
    try:
        chosen = await _select(stage, tree, instruction, parents, keep)
    except NotFound as error:
        raise _missing(stage, name, error, tree is None) from None
    if max(len(chosen.items), count) > 1 and not destination.endswith("/"):
        raise InvalidParameter(
            f"When using {name} with more than one source file, the destination must be a directory and end with a /"
        )
    inline = _inline(made, instruction.heredocs)
    owner_text = f"--chown={instruction.chown} " if instruction.chown else ""
    mode_text = f"--chmod={instruction.chmod} " if instruction.chmod else ""
    digests = ",".join(filter(None, (chosen.digest, inline.digest)))
    created_by = stage.nop(f"{name} {owner_text}{mode_text}{digests} in {destination} ")
    owner = _owner(stage, instruction.chown)
    change_mode = _change_mode(instruction.chmod)
    placement = Placement(destination, owner, change_mode, stage.job.latest_mtime_ns)
    unpacks = isinstance(instruction, Add) and instruction.unpack is not False

    async def make() -> NewLayer | None:
        async with stage.job.runner.snapshot(stage.state.chain_ids) as (_, rootfs):

            def work(roots: list[int]) -> None:
                files: Files = TreeFiles(roots[1]) if tree else ContextFiles(stage.job.context)
                items = [item for item in chosen.items if not (unpacks and _unpack(stage, roots[0], item, placement))]
                groups = [(files, items), (made, inline.items)]
                copy(roots[0], groups, placement, keep)

            await trees.visit([rootfs, tree] if tree else [rootfs], stage.job.place, work)
            return await stage.take_layer(rootfs)

    inputs = [owner, unpacks, parents, [item.kept_parents for item in chosen.items]]
    await stage.commit(created_by, stage.state.image_id, inputs, make)


def _check(instruction: Copy | Add, name: str) -> None:
    for source in instruction.sources:
        if source.startswith(_REMOTE):
            if name == "COPY":
                raise InvalidParameter("COPY failed: source can't be a URL for COPY")
            raise NotSupported(f"ADD {source}: this version of Wherry adds files of the context only: use RUN and curl")


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
    stage: StageBuild, tree: OverlayRootfs | None, instruction: Copy | Add, parents: bool, keep: Keep
) -> _Selection:
    sources = instruction.sources
    if not sources:
        return _Selection([], "")
    known: Recent[_Selection] = stage.job.cache.digests
    key = (tuple(tree.lower) if tree else (), sources, instruction.exclude, parents)
    if tree and (found := known.get(key)):
        return found

    def chosen(files: Files) -> _Selection:
        items = [item for item in select(files, sources, parents) if keep(item.path, item.is_directory)]
        return _Selection(items, digest_of(files, items, keep))

    if tree:
        selection = await trees.visit([tree], stage.job.place, lambda roots: chosen(TreeFiles(roots[0])))
        known.put(key, selection)
        return selection
    return await asyncio.to_thread(chosen, ContextFiles(stage.job.context))


def _inline(files: MemoryFiles, heredocs: Sequence[Heredoc]) -> _Selection:
    if not heredocs:
        return _Selection([], "")
    items = [Item(one.name, one.name, False) for one in heredocs]
    return _Selection(items, digest_of(files, items, _keeping(())))


def _missing(stage: StageBuild, name: str, error: NotFound, in_context: bool) -> InvalidParameter:
    what = str(error).partition('"/')[2].partition('"')[0]
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


def _unpack(stage: StageBuild, root_fd: int, item: Item, placement: Placement) -> bool:
    """Whether it was an archive, and is unpacked now."""
    if item.is_directory:
        return False
    context = stage.job.context
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

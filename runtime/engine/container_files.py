"""Files in containers: `docker cp` in every direction, export, diff and commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from runtime.container.ids import Ids
from runtime.container.rootpath import open_in
from runtime.content.archive import Owner, Writable, export_path, export_tree
from runtime.content.changes import apply_changes
from runtime.content.compression import Readable
from runtime.content.copy_in import copy_in
from runtime.content.diff import Change, changes
from runtime.content.image import Image
from runtime.content.images import ImageStore
from runtime.content.merged import read_in_layers
from runtime.content.snapshots import Snapshots
from runtime.content.tree import stat_and_target
from runtime.content.users import GROUP_PATH, PASSWD_PATH, resolve_user
from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.engine.control import Control
from runtime.engine.events import Event, EventBus
from runtime.engine.roots import Roots, Work, base_name, resolved_path, split
from runtime.errors import Conflict, InvalidParameter, NotFound, PermissionDenied
from runtime.oci.image import ContainerDefaults

Result = TypeVar("Result")

# Files made only so that something can be mounted on them: no changes of the container's.
MOUNT_POINTS = frozenset({"etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console", ".dockerenv"})
# The part of a container's Config that images have too.
IMAGE_SETTINGS = frozenset(ContainerDefaults.__annotations__)


@dataclass(frozen=True)
class PathStat:
    """A file as `docker cp` wants to know it; `link_target` is where a symlink leads, inside the container."""

    name: str
    info: os.stat_result
    link_target: str = ""


class ContainerFiles:
    def __init__(
        self,
        containers: ContainerService,
        control: Control,
        roots: Roots,
        snapshots: Snapshots,
        images: ImageStore,
        events: EventBus,
    ) -> None:
        self._containers = containers
        self._control = control
        self._roots = roots
        self._snapshots = snapshots
        self._images = images
        self._events = events

    # --- docker cp

    async def stat(self, container: Container, path: str, called: str) -> PathStat:
        """Raises NotFound in Docker's words, where the container is `called` what the client called it."""

        def work(root_fd: int, ids: Ids | None) -> PathStat:
            directory_fd, name = _open_parent(root_fd, path)
            try:
                info, target = stat_and_target(name, directory_fd)
                if target:
                    try:
                        target = resolved_path(root_fd, path)
                    except OSError:  # it leads nowhere
                        target = posixpath.join("/", split(path)[0], target)
                return PathStat(base_name(path), info, target)
            finally:
                os.close(directory_fd)

        return await self._visit(container, path, called, work)

    async def archive(self, container: Container, path: str, called: str, out: Writable) -> None:
        """Write the file at `path`, with all below it and all that is mounted there for the container, as a tar."""
        targets = {request.target for request in container.mounts}

        def work(root_fd: int, ids: Ids | None) -> None:
            directory_fd, name = _open_parent(root_fd, path)
            try:
                top = posixpath.normpath(posixpath.join(resolved_path(root_fd, split(path)[0]), name))

                def enter(below: str) -> bool:
                    return posixpath.join(top, below) in targets

                export_path(directory_fd, name, base_name(path), out, enter, _shown_owner(ids))
            finally:
                os.close(directory_fd)

        await self._visit(container, path, called, work)
        self._containers.publish(container, "archive-path")

    async def extract(
        self, container: Container, path: str, called: str, source: Readable, keep_kinds: bool, as_user: bool
    ) -> None:
        """Unpack a tar into the directory `path`; raises PermissionDenied where the container may not write."""
        owner = self._owner(container) if as_user else None

        def work(root_fd: int, ids: Ids | None) -> None:
            directory_fd = open_in(root_fd, path)
            try:
                if not stat.S_ISDIR(os.fstat(directory_fd).st_mode):
                    raise InvalidParameter("extraction point is not a directory")
                directory = resolved_path(root_fd, path)
                _check_writable(container, directory)
                copy_in(root_fd, directory, source, keep_kinds, owner, _kept_owner(ids))
            finally:
                os.close(directory_fd)

        await self._visit(container, path, called, work)
        self._containers.publish(container, "extract-to-dir")

    async def _visit(self, container: Container, path: str, called: str, work: Work[Result]) -> Result:
        if not path:
            raise InvalidParameter("path cannot be empty")
        try:
            return await self._roots.visit(container, work)
        except FileNotFoundError:
            raise NotFound(f"Could not find the file {path} in container {called}") from None
        except NotADirectoryError:
            raise InvalidParameter(f"{path}: not a directory") from None

    def _owner(self, container: Container) -> tuple[int, int]:
        rootfs = self._snapshots.describe(container.id, self._containers.image_of(container))
        passwd, group = (read_in_layers(rootfs.lower, rootfs.upper, file) for file in (PASSWD_PATH, GROUP_PATH))
        user = resolve_user(container.options.user, passwd, group)
        return user.uid, user.gid

    # --- export, diff, commit

    async def export(self, container: Container, out: Writable) -> None:
        await self._roots.visit(container, lambda root_fd, ids: export_tree(root_fd, out, _shown_owner(ids)))
        self._containers.publish(container, "export")

    async def changes(self, container: Container) -> list[Change]:
        rootfs = self._snapshots.describe(container.id, self._containers.image_of(container))
        return await asyncio.to_thread(changes, rootfs, MOUNT_POINTS)

    async def commit(
        self,
        container: Container,
        config: dict[str, Any],
        reference: str | None,
        comment: str,
        author: str,
        instructions: list[str],
        pause: bool,
    ) -> Image:
        """An image of the container as it is now, with the settings of a Config; raises InvalidParameter."""
        kept = {name: value for name, value in config.items() if name in IMAGE_SETTINGS and value}
        settings = apply_changes(cast(ContainerDefaults, kept), instructions)
        rootfs = self._snapshots.describe(container.id, self._containers.image_of(container))
        pausing = pause and container.state.status == "running"
        if pausing:
            with contextlib.suppress(Conflict):  # it is just ending
                await self._control.pause(container)
        try:
            image = await asyncio.to_thread(
                self._images.commit,
                self._containers.image_of(container),
                Path(rootfs.upper),
                settings,
                reference,
                comment,
                author,
                " ".join(container.options.args),
                MOUNT_POINTS,
                container.id,
                container.config,
            )
        finally:
            if pausing and container.state.status == "paused":
                await self._control.unpause(container)
        if reference:
            self._events.publish(Event("image", "tag", image.id, {"name": reference}))
        shown = {"comment": comment, "imageID": image.id, "imageRef": image.references[0] if image.references else ""}
        self._containers.publish(container, "commit", **shown)
        return image


def _shown_owner(ids: Ids | None) -> Owner | None:
    return None if ids is None else lambda uid, gid: (ids.uid_inside(uid), ids.gid_inside(gid))


def _kept_owner(ids: Ids | None) -> Owner | None:
    if ids is None:
        return None

    def kept(uid: int, gid: int) -> tuple[int, int]:
        try:
            return ids.uid_on_host(uid), ids.gid_on_host(gid)
        except ValueError as error:
            raise InvalidParameter(f"{error}: it cannot own a file there") from None

    return kept


def _open_parent(root_fd: int, path: str) -> tuple[int, str]:
    directory, name = split(path)
    return open_in(root_fd, directory, os.O_PATH | os.O_DIRECTORY), name


def _check_writable(container: Container, directory: str) -> None:
    within = [
        request
        for request in container.mounts
        if directory == request.target or directory.startswith(f"{request.target}/")
    ]
    if within:
        if max(within, key=lambda request: len(request.target)).read_only:
            raise PermissionDenied("mounted volume is marked read-only")
    elif container.options.read_only_root:
        raise PermissionDenied("container rootfs is marked read-only")

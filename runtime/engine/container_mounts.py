"""A container's part in volumes, host directories and images: claimed at its create, mounted while it runs.

What each mount becomes in config.json is decided here too, with the facts of this host: sources that exist, volumes
that are mounted, layers of images.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.content.images import ImageStore
from runtime.content.snapshots import OverlayRootfs, Snapshots
from runtime.engine.container import Container
from runtime.engine.events import Event, EventBus
from runtime.engine.host_shares import HostShares
from runtime.engine.options import MountRequest, volumes_from
from runtime.engine.spec_gen import HostMount
from runtime.engine.volumes import VolumeMounter, VolumeRequest, VolumeService, open_inside
from runtime.errors import Conflict, InvalidParameter, NotFound, SystemFault
from runtime.linux import mountinfo

log = logging.getLogger(__name__)


class ContainerMounts:
    def __init__(
        self,
        data_root: Path,
        volumes: VolumeService,
        images: ImageStore,
        snapshots: Snapshots,
        events: EventBus,
        host_shares: HostShares,
    ) -> None:
        self.host_shares = host_shares
        self._data_root = data_root
        self._volumes = volumes
        self._images = images
        self._snapshots = snapshots
        self._events = events
        self._mounter = VolumeMounter()
        self._claims: defaultdict[str, set[str]] = defaultdict(set)  # volume name → ids of containers

    # --- who uses what

    def users_of_volume(self, name: str) -> list[str]:
        """Ids of the containers that have it, running or not."""
        return sorted(self._claims.get(name, ()))

    def load(self, containers: Iterable[Container]) -> None:
        """At engine start: what containers of the store have."""
        for container in containers:
            for name in container.volumes.values():
                self._claims[name].add(container.id)
        self._volumes.reconcile(self.users_of_volume)

    def reconcile(self, running: Iterable[Container]) -> None:
        """At engine start: unmount what no running container uses."""
        users: defaultdict[str, set[str]] = defaultdict(set)
        for container in running:
            for name in container.volumes.values():
                users[name].add(container.id)
        self._mounter.reconcile(self._volumes.all(), users)

    # --- create and remove

    def inherited(self, host_config: dict[str, Any], find: Callable[[str], Container]) -> list[dict[str, Any]]:
        """What `--volumes-from` takes over, as documents that `claim` understands. Raises InvalidParameter."""
        taken = []
        for name, read_only in volumes_from(host_config):
            try:
                other = find(name)
            except NotFound as error:
                raise InvalidParameter(str(error)) from None
            for request in other.mounts:
                if request.kind in ("bind", "volume", "image") and request.shown:
                    document = asdict(request)
                    document |= {"read_only": request.read_only or read_only, "declared": False, "no_copy": True}
                    document["inherited"] = True
                    document["volume"] = other.volumes.get(request.target, "")
                    document["image"] = other.image_mounts.get(request.target, "")
                    taken.append(document)
        return taken

    async def claim(self, container: Container, rootfs: OverlayRootfs, undo: ExitStack) -> None:
        """Find or make what the mounts need, and fill new volumes. Raises InvalidParameter, NotFound, SystemFault."""
        inherited = {document["target"]: document for document in container.inherited}
        for request in container.mounts:
            known = inherited[request.target] if request.inherited else {}
            if request.kind == "volume":
                await self._claim_volume(container, request, known.get("volume", ""), rootfs, undo)
            elif request.kind == "image":
                own = known.get("image")  # of the container whose volumes these are
                image = self._images.kept(own) if own else self._images.get(request.source)
                container.image_mounts[request.target] = image.id
            elif request.kind == "bind":
                self.host_shares.check(request.source)
                if not request.create_source:
                    _check_source(request.source)

    async def _claim_volume(
        self, container: Container, request: MountRequest, known: str, rootfs: OverlayRootfs, undo: ExitStack
    ) -> None:
        volume, made = self._volumes.ensure(
            VolumeRequest(known or request.source, request.driver, request.driver_options, request.labels)
        )
        undo.callback(self._unclaim_volume, container, volume.name, made)
        container.volumes[request.target] = volume.name
        alone = not self._claims[volume.name]
        self._claims[volume.name].add(container.id)
        if request.no_copy:
            return
        if volume.needs_mount:
            async with self._mounter.mounted(volume, f"the copying for {container.id}"):
                await self._volumes.populate(volume, rootfs.lower, request.target, request.subpath, alone)
        else:
            await self._volumes.populate(volume, rootfs.lower, request.target, request.subpath, alone)

    def _unclaim_volume(self, container: Container, name: str, remove: bool) -> None:
        users = self._claims[name]
        users.discard(container.id)
        if not users:
            self._claims.pop(name, None)
            if remove:
                self._volumes.remove(name)

    def own_anonymous(self, container: Container) -> list[str]:
        """Anonymous volumes nobody else has: they may go with the container."""
        names = {container.volumes[one.target] for one in container.mounts if one.kind == "volume" and not one.source}
        return sorted(name for name in names if self.users_of_volume(name) == [container.id])

    def let_go(self, container: Container, remove: Iterable[str]) -> None:
        """The container is removed, and these volumes with it. Raises OSError; to be called again then."""
        for name in remove:
            try:
                self._volumes.remove(name)
            except NotFound:
                continue
            except Conflict as error:
                log.warning("with container %s: %s", container.id, error)
        for name in set(container.volumes.values()):
            self._unclaim_volume(container, name, remove=False)

    # --- start and end

    async def mount(self, container: Container) -> None:
        """Before a start: volumes with a file system of their own are mounted. Undone by `unmount`."""
        for request in container.mounts:
            if request.kind == "bind":
                await self.host_shares.wait_for(request.source)
                self.host_shares.check(request.source)
            elif request.kind == "volume":
                volume = self._volumes.get(container.volumes[request.target])
                await self._mounter.acquire(volume, container.id)
                if request.subpath:
                    os.close(open_inside(volume, request.subpath))
                if not volume.path.is_dir():
                    raise SystemFault(
                        f"the directory of volume {volume.name} is missing ({volume.path}): remove the volume and "
                        "make it again"
                    )

    async def unmount(self, container: Container) -> None:
        """After an end, or a start that failed."""
        if container.volumes:
            await self._mounter.release(container.id)

    def publish_mounted(self, container: Container) -> None:
        for request in container.mounts:
            if request.kind == "volume":
                attributes = {
                    "container": container.id,
                    "destination": request.target,
                    "driver": "local",
                    "propagation": "",
                    "read/write": "false" if request.read_only else "true",
                }
                self._events.publish(Event("volume", "mount", container.volumes[request.target], attributes))

    def publish_unmounted(self, container: Container) -> None:
        for request in container.mounts:
            if request.kind == "volume":
                attributes = {"container": container.id, "driver": "local"}
                self._events.publish(Event("volume", "unmount", container.volumes[request.target], attributes))

    @contextlib.asynccontextmanager
    async def visited(self, container: Container) -> AsyncIterator[list[HostMount]]:
        """What a stopped container would have mounted, but for tmpfs and what is missing; held inside the block."""
        visitor = f"{container.id} {secrets.token_hex(8)}"
        try:
            found = []
            for request in container.mounts:
                if request.kind == "volume":
                    await self._mounter.acquire(self._volumes.get(container.volumes[request.target]), visitor)
                if request.kind != "tmpfs" and (request.kind != "bind" or os.path.exists(request.source)):
                    found.append(self._resolve(container, request))
            yield found
        finally:
            await self._mounter.release(visitor)

    # --- what a bundle has

    def resolved(self, container: Container) -> list[HostMount]:
        """The container's mounts for its config.json, in order. Raises InvalidParameter, SystemFault."""
        return [self._resolve(container, request) for request in container.mounts]

    def _resolve(self, container: Container, request: MountRequest) -> HostMount:
        if request.kind == "tmpfs":
            return HostMount("tmpfs", request.target, request.options, "tmpfs")
        if request.kind == "image":
            return self._image(container, request)
        options = ["rbind" if request.recursive else "bind", *_access(request)]
        stored = False
        if request.kind == "volume":
            volume = self._volumes.get(container.volumes[request.target])
            source, stored = str(volume.path), not volume.needs_mount
            options.append("rprivate")
            if request.subpath:
                options.append(f"X-mount.subdir={request.subpath}")
        else:
            source = request.source
            self._make_source(request)
            options.append(self._propagation(request))
        return HostMount(source, request.target, tuple(options), stored=stored)

    def _image(self, container: Container, request: MountRequest) -> HostMount:
        image = self._images.kept(container.image_mounts[request.target])
        lower = self._snapshots.layers(image.chain_ids)
        subpath = (f"X-mount.subdir={request.subpath}",) if request.subpath else ()
        if len(lower) == 1:  # overlayfs wants two layers
            return HostMount(lower[0], request.target, ("bind", "ro", "rprivate", *subpath), stored=True)
        layers = tuple(f"lowerdir+={layer}" for layer in lower)
        return HostMount("overlay", request.target, ("ro", *layers, *subpath), "overlay")

    def _make_source(self, request: MountRequest) -> None:
        if not request.create_source:
            _check_source(request.source)
        elif not os.path.exists(request.source):
            try:
                os.makedirs(request.source)
            except OSError as error:
                raise SystemFault(
                    f"error while creating mount source path '{request.source}': mkdir {request.source}: "
                    f"{(error.strerror or '').lower()}"
                ) from None

    def _propagation(self, request: MountRequest) -> str:
        """Checked as Docker does: a mount can share or follow only what its source's mount lets it."""
        wanted = request.propagation or "rprivate"
        if wanted.endswith("private"):
            return wanted
        path = os.path.realpath(request.source)
        on = mountinfo.containing(mountinfo.read(), path)
        kinds = {option.partition(":")[0] for option in on.optional}
        if wanted.endswith("shared") and "shared" not in kinds:
            raise SystemFault(f"path {path} is mounted on {on.mount_point} but it is not a shared mount")
        if wanted.endswith("slave") and not kinds & {"shared", "master"}:
            if path.startswith(str(self._data_root)) or str(self._data_root).startswith(path):
                return "rprivate"  # as Docker: it used to add rslave to these by itself
            raise SystemFault(f"path {path} is mounted on {on.mount_point} but it is not a shared or slave mount")
        return wanted


def _access(request: MountRequest) -> list[str]:
    """Read-only holds for the mounts below too (mount_setattr(2), which this runtime needs anyway), unless refused.

    Never "rw": that would make a source writable that the host has mounted read-only.
    """
    if not request.read_only:
        return []
    return ["ro" if request.read_only_below == "never" else "rro"]


def _check_source(path: str) -> None:
    if not os.path.exists(path):
        raise InvalidParameter(f'invalid mount config for type "bind": bind source path does not exist: {path}')

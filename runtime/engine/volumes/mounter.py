"""Volumes with a file system of their own: mounted for the first container that uses one, unmounted after the last.

What is mounted is what /proc/self/mountinfo says; only who uses it is remembered, and that is rebuilt from the running
containers when an engine starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping

from runtime.engine.volumes.local_options import mount_call, without_password
from runtime.engine.volumes.model import Volume
from runtime.errors import SystemFault
from runtime.linux import mountinfo, mounts

log = logging.getLogger(__name__)


class VolumeMounter:
    """Users are ids of containers, or of whatever else needs the content for a while."""

    def __init__(self) -> None:
        self._users: dict[str, set[str]] = {}
        self._volumes: dict[str, Volume] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def acquire(self, volume: Volume, user: str) -> None:
        """Mount `volume` unless it is mounted. Mounting may take long (a server far away). Raises SystemFault."""
        if not volume.needs_mount:
            return
        async with self._locks[volume.name]:
            if not is_mounted(volume):
                await asyncio.to_thread(_mount, volume)
            self._users.setdefault(volume.name, set()).add(user)
            self._volumes[volume.name] = volume

    async def release(self, user: str) -> None:
        """`user` is done with all its volumes."""
        for name in [name for name, users in self._users.items() if user in users]:
            async with self._locks[name]:
                users = self._users.get(name, set())
                users.discard(user)
                if not users and name in self._volumes:
                    await asyncio.to_thread(unmount, self._volumes.pop(name))
                    self._users.pop(name, None)

    @contextlib.asynccontextmanager
    async def mounted(self, volume: Volume, user: str) -> AsyncIterator[None]:
        """`volume` is mounted inside the block."""
        await self.acquire(volume, user)
        try:
            yield
        finally:
            await self.release(user)

    def is_used(self, volume: Volume) -> bool:
        return bool(self._users.get(volume.name))

    def reconcile(self, volumes: Iterable[Volume], users: Mapping[str, Iterable[str]]) -> None:
        """At engine start: `users` are the running containers of each volume's name; others are unmounted."""
        for volume in volumes:
            if not volume.needs_mount:
                continue
            if running := set(users.get(volume.name, ())):
                self._users[volume.name] = running
                self._volumes[volume.name] = volume
            elif is_mounted(volume):
                unmount(volume)


def is_mounted(volume: Volume) -> bool:
    return mountinfo.at(mountinfo.read(), os.path.realpath(volume.path)) is not None


def _mount(volume: Volume) -> None:
    """Blocks."""
    call = mount_call(volume.options)
    path = str(volume.path)
    try:
        mounts.mount(call.device, path, call.fstype, call.flags, call.data)
    except OSError as error:
        raise SystemFault(
            f"error while mounting volume '{path}': failed to mount local volume: mount {call.device}:{path}, "
            f"flags: {call.flags:#x}, data: {without_password(call.data)}: {(error.strerror or '').lower()}"
        ) from None
    try:
        if call.flags & mounts.MS_BIND and call.flags & ~(mounts.MS_BIND | mounts.MS_REC):
            # A bind mount ignores other flags until it is mounted again (mount(2), "Remounting").
            mounts.mount("", path, None, call.flags & ~mounts.MS_REC | mounts.MS_REMOUNT)
        if call.propagation:
            mounts.mount("", path, None, call.propagation)
    except OSError as error:
        unmount(volume)
        raise SystemFault(f"error while mounting volume '{path}': {(error.strerror or '').lower()}") from None


def unmount(volume: Volume) -> None:
    """Blocks. A busy one goes when the last process lets go of it."""
    try:
        mounts.umount(str(volume.path), mounts.MNT_DETACH)
    except OSError as error:
        log.warning("volume %s cannot be unmounted: %s", volume.name, error)

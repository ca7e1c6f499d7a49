"""A process made from its bundle: on its root file system, in its cgroup and network; and its cgroup ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cgroups import Cgroup
from runtime.content.snapshots import OverlayRootfs
from runtime.engine.container import Container
from runtime.errors import WherryError

if TYPE_CHECKING:
    from runtime.engine.launcher_link import Started
    from runtime.engine.networks import Membership
    from runtime.engine.processes import LiveProcess, ProcessTable
    from runtime.engine.stdio import Take

log = logging.getLogger(__name__)

END_TIMEOUT_S = 10.0


async def launch(
    processes: ProcessTable,
    container: Container,
    bundle: Path,
    rootfs: OverlayRootfs,
    cgroup: Cgroup,
    member: Membership,
    take: Take,
) -> LiveProcess:
    """Its process, which holds the network's namespace from then on. Raises what the launcher raises."""
    extra_fds: dict[str, int] = {}
    if member.sandbox:
        extra_fds["netns"] = member.sandbox.fd
    cgroup_fd = cgroup.open_fd()
    if cgroup_fd is not None:
        extra_fds["cgroup"] = cgroup_fd

    async def run(fds: Mapping[str, int]) -> Started:
        overlay = {"type": "overlay", "lower": rootfs.lower, "upper": rootfs.upper, "work": rootfs.work}
        join = [] if cgroup_fd is not None else cgroup.join_paths()
        return await processes.link.run(container.id, bundle, overlay, join, fds)

    try:
        live = await processes.start(
            (container.id, ""),
            run,
            terminal=container.options.tty,
            stdin=container.options.open_stdin,
            take=take,
            hub=container.hub,
            extra_fds=extra_fds,
        )
    finally:
        if cgroup_fd is not None:
            os.close(cgroup_fd)
    if member.sandbox:
        member.sandbox.close()
        member.sandbox = None
    return live


async def end_all(cgroup: Cgroup) -> None:
    """Kill whatever is in it, and wait for that to be gone."""
    cgroup.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            while cgroup.pids():
                await asyncio.sleep(0.005)  # the kernel tells nobody when a v1 cgroup empties


async def end_and_delete(cgroup: Cgroup) -> None:
    await end_all(cgroup)
    delete(cgroup)


def delete(cgroup: Cgroup) -> None:
    try:
        cgroup.delete()
    except (WherryError, OSError) as error:
        log.warning("the cgroup %s stays for now: %s", cgroup.path, error)

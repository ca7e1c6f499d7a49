"""Root file systems of stages and images, open for reading and writing while a step copies files.

They are mounted in a mount namespace that one thread has to itself: nothing of them can be seen, or be left behind.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, cast

from runtime.container.op import Init
from runtime.container.ops_mount import MountOverlayRoot
from runtime.container.report import Report
from runtime.content.snapshots import OverlayRootfs
from runtime.content.tree import open_directory
from runtime.linux import mounts, namespaces

Result = TypeVar("Result")


async def visit(trees: Sequence[OverlayRootfs], place: Path, work: Callable[[list[int]], Result]) -> Result:
    """Run `work` in a thread, given a descriptor of each tree's root; raises what it raises.

    A tree without `lower` is its upper directory, one without `upper` is for reading. `place`: an empty directory.
    """
    own_thread = ThreadPoolExecutor(1, "build")  # which ends, and its namespace with it
    try:
        task = asyncio.get_running_loop().run_in_executor(own_thread, _in_own_namespace, trees, place, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,))  # a thread cannot be cancelled, and what it uses has to stay until it is done
            raise
    finally:
        own_thread.shutdown(wait=False)


def _in_own_namespace(trees: Sequence[OverlayRootfs], place: Path, work: Callable[[list[int]], Result]) -> Result:
    namespaces.unshare(namespaces.CLONE_NEWNS)  # of this thread alone
    mounts.mount("none", "/", None, mounts.MS_REC | mounts.MS_SLAVE)
    with ExitStack() as opened:
        roots = []
        for tree in trees:
            root_fd = _open(tree, place)
            opened.callback(os.close, root_fd)
            roots.append(root_fd)
        return work(roots)


def _open(tree: OverlayRootfs, place: Path) -> int:
    if not tree.lower:
        return open_directory(tree.upper)
    if not tree.upper and len(tree.lower) == 1:  # overlayfs wants two layers
        return open_directory(tree.lower[0])
    state = Init(cast(Report, None), {})
    MountOverlayRoot(tree.lower, tree.upper or None, tree.work or None, str(place)).apply(state)
    return state.root

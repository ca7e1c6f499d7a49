"""A cgroup on v1 controllers, each with a hierarchy of its own (Documentation/admin-guide/cgroup-v1/).

In hybrid set-ups the unified hierarchy is left alone: entering it costs more than everything else about a
start, see `join_paths`, and it would add nothing.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from runtime.cgroups.files import (
    Write,
    apply,
    gone,
    make,
    read_file,
    read_pids,
    read_table,
    remove_if_empty,
    remove_tree,
    unsupported,
    write_file,
)
from runtime.cgroups.hierarchy import Hierarchies
from runtime.cgroups.oom import OomNotice, v1_oom_notice
from runtime.cgroups.resources import device_rules, v1_device_writes, v1_writes
from runtime.cgroups.stats import Stats, v1_stats
from runtime.errors import AlreadyExists, NotSupported, SystemFault
from runtime.oci.spec import LinuxResources

_FREEZE_TIMEOUT_S = 2.0
_KILL_ROUNDS = 100


class V1Cgroup:
    """The cgroup `path` in every hierarchy; see `runtime.cgroups.open_cgroup`."""

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        self.path = path
        self._by_controller = {name: mount + path for name, mount in hierarchies.v1.items()}
        self._roots = {root + path: root for root in hierarchies.roots}

    def create(self, resources: LinuxResources) -> None:
        """Make the cgroup with these limits; whatever fails, nothing is left of it."""
        writes = v1_writes(resources)
        rules = device_rules(resources)
        with contextlib.ExitStack() as undo:
            for directory, root in self._roots.items():
                self._make(directory, root, undo)
            if runtime_us := (resources.get("cpu") or {}).get("realtimeRuntime"):
                self._reserve_realtime(runtime_us)
            self._apply([*writes, *(v1_device_writes(rules) if rules else ())])
            undo.pop_all()

    def update(self, resources: LinuxResources) -> None:
        """Set the limits `resources` has and leave the others alone."""
        writes = v1_writes(resources)
        rules = device_rules(resources)
        self._apply(writes)
        if rules:
            # The rules start with refusing everything; nobody may run between that and the last of them.
            with self._frozen():
                self._apply(v1_device_writes(rules))

    def join_paths(self) -> list[str]:
        """Return the files into which a process, which must have one thread, writes "0" to enter.

        `tasks` moves a thread, `cgroup.procs` a process. For a process with one thread it is the same, but
        moving a process makes the kernel wait for an RCU grace period (cgroup_threadgroup_rwsem): 6 ms
        instead of 0.3.
        """
        return [f"{directory}/tasks" for directory in self._roots]

    def open_fd(self) -> int | None:
        """Return None: CLONE_INTO_CGROUP knows the unified hierarchy only."""
        return None

    def open_fd_beside(self, pid: int) -> int | None:
        """Return None, as `open_fd` does; v1 lets processes be beside cgroups."""
        return None

    def pids(self) -> list[int]:
        """Return the processes of the cgroup and all below."""
        # Those of the first hierarchy: whoever is in any other, or on the way there, is in the first too.
        return read_pids(next(iter(self._roots)))

    def stats(self) -> Stats:
        """Sample the cgroup's resource usage."""
        return v1_stats(self._by_controller)

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for the memory limit."""
        directory = self._by_controller.get("memory")
        return 0 if directory is None else read_table(f"{directory}/memory.oom_control").get("oom_kill", 0)

    def oom_notice(self) -> OomNotice:
        """Return what becomes readable when the memory limit is hit; the caller closes it."""
        directory = self._by_controller.get("memory")
        if directory is None:
            raise NotSupported("this host has no memory cgroup controller")
        return v1_oom_notice(directory)

    def is_frozen(self) -> bool:
        """Return whether the processes are stopped."""
        return read_file(self._freezer_file()) == "FROZEN"

    def freeze(self) -> None:
        """Stop every process of the cgroup, and return when they are stopped."""
        self._set_freezer("FROZEN")

    def thaw(self) -> None:
        """Let the processes run on."""
        self._set_freezer("THAWED")

    def kill(self) -> None:
        """Send SIGKILL to every process, even frozen or just being forked; does not wait for them to end."""
        # Killing can race with forking: go on until a round finds nobody new.
        killed: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            new = set(self.pids()) - killed
            if not new:
                break
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= new
        # A frozen process dies when it is thawed.
        with contextlib.suppress(FileNotFoundError, NotSupported):
            write_file(self._freezer_file(), "THAWED")

    def delete(self) -> None:
        """Remove the cgroup from every hierarchy; raises Conflict while it has processes."""
        for directory in self._roots:
            remove_tree(directory)

    def _make(self, directory: str, root: str, undo: contextlib.ExitStack) -> None:
        try:
            make(directory)
        except FileNotFoundError:
            self._make_parents(os.path.dirname(directory), root, undo)
            make(directory)
        undo.callback(remove_tree, directory)
        if directory == self._by_controller.get("cpuset"):
            _inherit_cpuset(directory, root)

    def _make_parents(self, directory: str, root: str, undo: contextlib.ExitStack) -> None:
        if directory == root:
            return
        self._make_parents(os.path.dirname(directory), root, undo)
        with contextlib.suppress(AlreadyExists):
            make(directory)
            undo.callback(remove_if_empty, directory)

    def _reserve_realtime(self, runtime_us: int) -> None:
        """Let every parent have this much more of real time: a cgroup can give on only what it has itself.

        Best effort (Documentation/scheduler/sched-rt-group.rst): the write to the cgroup itself says what is wrong.
        """
        directory = self._by_controller.get("cpu")
        if directory is None:
            return
        parents: list[str] = []
        while (directory := os.path.dirname(directory)) not in self._roots.values():
            parents.insert(0, f"{directory}/cpu.rt_runtime_us")
        for file in parents:
            with contextlib.suppress(OSError):
                write_file(file, str(int(read_file(file)) + runtime_us))

    def _apply(self, writes: list[Write]) -> None:
        for write in writes:
            directory = self._by_controller.get(write.controller)
            if directory is not None:
                apply(write, directory)
            elif not write.optional:
                raise unsupported(write)

    def _set_freezer(self, wanted: str) -> None:
        path = self._freezer_file()
        try:
            write_file(path, wanted)
        except FileNotFoundError:
            raise gone(os.path.dirname(path)) from None
        # The state says FREEZING until the last task has stopped. v1 has no event for it, and a task that is
        # being forked meanwhile is caught by writing again only (Documentation: freezer-subsystem.rst).
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        while read_file(path) != wanted:
            if time.monotonic() > deadline:
                write_file(path, "THAWED")
                raise SystemFault(f"cannot pause cgroup {self.path}: a process in it does not stop")
            time.sleep(0.0002)
            write_file(path, wanted)

    def _freezer_file(self) -> str:
        directory = self._by_controller.get("freezer")
        if directory is None:
            raise NotSupported("cannot pause: this host has no freezer cgroup controller")
        return f"{directory}/freezer.state"

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        was_frozen = self.is_frozen()
        self.freeze()
        try:
            yield
        finally:
            if not was_frozen:
                self.thaw()


def _inherit_cpuset(directory: str, root: str) -> None:
    """Give a new cpuset its parent's CPUs and memory nodes: without any, no process can enter it."""
    if read_file(f"{directory}/cpuset.cpus"):
        return
    parent = os.path.dirname(directory)
    if parent != root:
        _inherit_cpuset(parent, root)
    for file in ("cpuset.cpus", "cpuset.mems"):
        write_file(f"{directory}/{file}", read_file(f"{parent}/{file}"))
    # From now on the kernel does the same for every cgroup made below.
    write_file(f"{directory}/cgroup.clone_children", "1")

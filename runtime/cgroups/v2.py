"""A cgroup on the unified hierarchy (v2): Documentation/admin-guide/cgroup-v2.rst."""

import contextlib
import errno
import functools
import os
import select
import time
from collections.abc import Callable

from runtime.cgroups.files import (
    apply,
    gone,
    make,
    read_file,
    read_pids,
    read_table,
    remove_if_empty,
    remove_tree,
    write_file,
)
from runtime.cgroups.hierarchy import Hierarchies, unified_path
from runtime.cgroups.oom import OomNotice, v2_oom_notice
from runtime.cgroups.resources import device_rules, v2_writes
from runtime.cgroups.stats import Stats, v2_stats
from runtime.errors import AlreadyExists, SystemFault
from runtime.linux.bpf import DeviceRule, attach_device_program, device_program, load_device_program
from runtime.oci.spec import LinuxResources

_FREEZE_TIMEOUT_S = 2.0
_DELEGATED = frozenset(("cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"))


class V2Cgroup:
    """The cgroup `path`; see `runtime.cgroups.open_cgroup`."""

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        assert hierarchies.unified is not None
        self.path = path
        self._root = hierarchies.unified
        self._directory = self._root + path

    def create(self, resources: LinuxResources) -> None:
        """Make the cgroup with these limits; whatever fails, nothing is left of it."""
        writes = v2_writes(resources)
        rules = device_rules(resources)
        with contextlib.ExitStack() as undo:
            _delegate(os.path.dirname(self._directory), self._root, undo)
            make(self._directory)
            undo.callback(remove_tree, self._directory)
            for write in writes:
                apply(write, self._directory)
            if rules:
                self._restrict_devices(_shared_device_program, rules)
            undo.pop_all()

    def update(self, resources: LinuxResources) -> None:
        """Set the limits `resources` has and leave the others alone."""
        writes = v2_writes(resources)
        rules = device_rules(resources)
        for write in writes:
            apply(write, self._directory)
        if rules:
            # Not a shared one: the kernel refuses to attach the same program to a cgroup twice.
            self._restrict_devices(_DeviceProgram, rules)

    def join_paths(self) -> list[str]:
        """Return the file into which a process writes "0" to enter."""
        return [f"{self._directory}/cgroup.procs"]

    def open_fd(self) -> int | None:
        """Return a close-on-exec fd of the directory, for CLONE_INTO_CGROUP; the caller closes it."""
        return os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_fd_beside(self, pid: int) -> int | None:
        """Return a descriptor as `open_fd` does, of where another process of the container may be born.

        A container that has delegated controllers to cgroups of its own (systemd, a container engine) has no
        processes in its topmost one any more, and the kernel refuses new ones there; then it is `pid`'s cgroup.
        """
        if not read_file(f"{self._directory}/cgroup.subtree_control"):
            return self.open_fd()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            path = unified_path(read_file(f"/proc/{pid}/cgroup"))
            if path.startswith(f"{self.path}/"):
                return os.open(self._root + path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self.open_fd()

    def pids(self) -> list[int]:
        """Return the processes of the cgroup and all below."""
        return read_pids(self._directory)

    def stats(self) -> Stats:
        """Sample the cgroup's resource usage."""
        return v2_stats(self._directory)

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for the memory limit."""
        return read_table(f"{self._directory}/memory.events").get("oom_kill", 0)

    def oom_notice(self) -> OomNotice:
        """Return what becomes readable when the memory limit is hit; the caller closes it."""
        return v2_oom_notice(self._directory)

    def is_frozen(self) -> bool:
        """Return whether the processes are stopped."""
        return bool(read_table(f"{self._directory}/cgroup.events").get("frozen"))

    def freeze(self) -> None:
        """Stop every process of the cgroup, and return when they are stopped."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Let the processes run on."""
        self._set_frozen(False)

    def kill(self) -> None:
        """Send SIGKILL to every process, even frozen or just being forked; does not wait for them to end."""
        with contextlib.suppress(FileNotFoundError):
            write_file(f"{self._directory}/cgroup.kill", "1")

    def delete(self) -> None:
        """Remove the cgroup; raises Conflict while it has processes."""
        remove_tree(self._directory)

    def _restrict_devices(
        self, load: Callable[[tuple[DeviceRule, ...]], "_DeviceProgram"], rules: list[DeviceRule]
    ) -> None:
        try:
            program = load(tuple(rules))
            directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                attach_device_program(directory_fd, program.fd)
            finally:
                os.close(directory_fd)
        except OSError as error:
            raise SystemFault(
                f"cannot restrict devices in cgroup {self.path}: bpf(2): {error.strerror}; "
                "the kernel needs CONFIG_CGROUP_BPF, and the engine CAP_BPF and CAP_NET_ADMIN"
            ) from error

    def _set_frozen(self, frozen: bool) -> None:
        try:
            events = os.open(f"{self._directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise gone(self._directory) from None
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            deadline = time.monotonic() + _FREEZE_TIMEOUT_S
            write_file(f"{self._directory}/cgroup.freeze", str(int(frozen)))
            wanted = f"frozen {int(frozen)}"
            while wanted not in os.pread(events, 4096, 0).decode().splitlines():
                left_ms = (deadline - time.monotonic()) * 1000
                if left_ms <= 0 or not poll.poll(left_ms):
                    write_file(f"{self._directory}/cgroup.freeze", "0")
                    raise SystemFault(f"cannot pause cgroup {self.path}: a process in it does not stop")
        finally:
            os.close(events)


class _DeviceProgram:
    """A loaded program; its descriptor lives as long as the object."""

    def __init__(self, rules: tuple[DeviceRule, ...]) -> None:
        self.fd = load_device_program(device_program(rules))

    def __del__(self) -> None:
        if hasattr(self, "fd"):  # loading may have failed
            os.close(self.fd)


# Checking and compiling a program is most of what making a cgroup costs, and most containers have the same rules.
_shared_device_program = functools.lru_cache(maxsize=8)(_DeviceProgram)


def _delegate(directory: str, root: str, undo: contextlib.ExitStack) -> None:
    """Make `directory` if need be, with every controller the host offers enabled for its children."""
    try:
        available = read_file(f"{directory}/cgroup.controllers")
    except FileNotFoundError:
        if directory == root:
            raise
        _delegate(os.path.dirname(directory), root, undo)
        with contextlib.suppress(AlreadyExists):
            make(directory)
            undo.callback(remove_if_empty, directory)
        available = read_file(f"{directory}/cgroup.controllers")
    enabled = read_file(f"{directory}/cgroup.subtree_control")
    missing = (_DELEGATED & set(available.split())) - set(enabled.split())
    if missing:
        _enable(directory, sorted(missing))


def _enable(directory: str, controllers: list[str]) -> None:
    try:
        write_file(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SystemFault(
                f"cannot enable cgroup controllers below {directory}: processes run in it, and a cgroup "
                "may have either processes or limited children; start the engine in a cgroup of its own"
            ) from error
        raise SystemFault(
            f"cannot enable the cgroup controllers {', '.join(controllers)} below {directory}: {error.strerror}"
        ) from error

"""Starting a process of a container: read the bundle, clone, and have the child compile and run its plan.

The parent reads no more of config.json than the namespaces its child must be born with.
"""

import errno
import functools
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from runtime.container import init
from runtime.container.facts import HostFacts
from runtime.container.init import Plan
from runtime.container.op import Refused
from runtime.container.plan import (
    Launch,
    clone_flags,
    compile_container,
    compile_exec,
    pid_namespace_path,
)
from runtime.container.report import Report
from runtime.container.spawn import Child, spawn
from runtime.linux import seccomp
from runtime.linux.files import read_file
from runtime.linux.namespaces import CLONE_NEWPID

if TYPE_CHECKING:
    from runtime.oci.spec import Spec

T = TypeVar("T")

CONFIG_NAME = "config.json"
FILTER_NAME = "seccomp.bpf"

_BUNDLES_KEPT = 256

_MALFORMED = (KeyError, TypeError, AttributeError, ValueError)
"""What reading a JSON document of the wrong shape raises."""


def read_config(bundle: str) -> "Spec":
    """config.json of `bundle`, unchecked; raises Refused if it cannot be read."""
    spec: Spec = _read_json(os.path.join(bundle, CONFIG_NAME))
    return spec


def start_container(
    spec: "Spec", launch: Launch, facts: HostFacts, *, filter_dir: str, cgroup_fd: int | None = None
) -> Child:
    """Start a container's own process.

    `filter_dir` holds seccomp.bpf if config.json has linux.seccomp. Raises Refused for a config.json the child
    cannot even be born with, OSError if the kernel has no process to give.
    """

    def main(report: Report) -> NoReturn:
        run_compiled(lambda: compile_container(spec, with_filter(launch, spec, filter_dir), facts), report)

    flags, namespace = _checked(lambda: (clone_flags(spec, launch.netns), pid_namespace_path(spec)))
    if namespace is None:
        return spawn(main, flags, cgroup_fd=cgroup_fd)
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return spawn(main, flags, cgroup_fd=cgroup_fd, pid_namespace=(fd, CLONE_NEWPID))
    finally:
        os.close(fd)


def start_exec(
    process: str,
    launch: Launch,
    container: int,
    facts: HostFacts,
    *,
    filter_dir: str,
    cgroup_fd: int | None = None,
) -> Child:
    """Start the OCI process object in the file `process` in the container whose init is the pidfd `container`.

    Raises Refused if the container is not running, or config.json of its bundle cannot be read.
    """
    flags = _filter_flags_of(launch.bundle)

    def main(report: Report) -> NoReturn:
        def compiled() -> Plan:
            filtered = launch if flags is None else _with_filter(launch, filter_dir, flags)
            return compile_exec(_read_json(process), filtered, container, facts)

        run_compiled(compiled, report)

    try:
        return spawn(main, 0, cgroup_fd=cgroup_fd, pid_namespace=(container, CLONE_NEWPID))
    except OSError as error:
        # ENOMEM is what clone answers in a PID namespace whose init is gone.
        if error.errno in (errno.ESRCH, errno.ENOMEM):
            raise Refused(errno.ESRCH, f"container {launch.id} is not running") from None
        raise


def run_compiled(compiled: Callable[[], Plan], report: Report, stage: int = -1) -> NoReturn:
    """In the child: compile a plan and run it; what cannot be compiled is reported too."""
    try:
        plan = _checked(compiled)
    except Refused as refusal:
        report.failed("config", refusal.errno, str(refusal))
        os._exit(1)
    init.run(plan, report, stage)


def _checked(read: Callable[[], T]) -> T:
    try:
        return read()
    except _MALFORMED as error:
        raise Refused(errno.EINVAL, f"config.json is malformed: {error!r}") from None


def with_filter(launch: Launch, spec: "Spec", filter_dir: str) -> Launch:
    """`launch` with the compiled filter, if config.json wants one; raises Refused if it is missing."""
    wanted = spec.get("linux", {}).get("seccomp")
    return launch if wanted is None else _with_filter(launch, filter_dir, seccomp.filter_flags(wanted))


def _with_filter(launch: Launch, filter_dir: str, flags: int) -> Launch:
    path = os.path.join(filter_dir, FILTER_NAME)
    try:
        bpf = read_file(path)
    except FileNotFoundError:
        raise Refused(
            errno.ENOENT, f"config.json has linux.seccomp but {path}, the compiled filter, is missing"
        ) from None
    return launch._replace(seccomp=bpf, seccomp_flags=flags)


def _filter_flags_of(bundle: str) -> int | None:
    """Those of the filter of a bundle's processes, None if they have none."""
    path = os.path.join(bundle, CONFIG_NAME)
    try:
        changed_ns = os.stat(path).st_mtime_ns
    except OSError as error:
        raise _unreadable(path, error) from None
    return _filter_flags(bundle, changed_ns)


@functools.lru_cache(_BUNDLES_KEPT)
def _filter_flags(bundle: str, changed_ns: int) -> int | None:
    # A container has many execs, and to parse its config.json takes as long as a third of one.
    spec = read_config(bundle)

    def read() -> int | None:
        wanted = spec.get("linux", {}).get("seccomp")
        return None if wanted is None else seccomp.filter_flags(wanted)

    return _checked(read)


def _read_json(path: str) -> Any:
    try:
        return json.loads(read_file(path))
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise Refused(errno.EINVAL, f"{path} is not JSON: {error}") from None


def _unreadable(path: str, error: OSError) -> Refused:
    return Refused(error.errno or 0, f"cannot read {path}: {error.strerror}")

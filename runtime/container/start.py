"""Starting a process of a container: read the bundle, clone, and have the child compile and run its plan.

The parent reads no more of config.json than the namespaces its child must be born with.
"""

import errno
import functools
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from runtime.container import init
from runtime.container.facts import HostFacts
from runtime.container.ids import Ids
from runtime.container.init import Plan
from runtime.container.op import Refused
from runtime.container.plan import (
    Launch,
    clone_flags,
    compile_container,
    compile_exec,
    pid_namespace_path,
    user_namespace_ids,
)
from runtime.container.report import Report
from runtime.container.spawn import Child, spawn
from runtime.linux import seccomp
from runtime.linux.files import read_file
from runtime.linux.namespaces import CLONE_NEWPID

if TYPE_CHECKING:
    from runtime.oci.spec import Process, Spec

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
    known = _known_of(launch.bundle)
    flags = known.filter_flags

    def main(report: Report) -> NoReturn:
        def compiled() -> Plan:
            entering = launch._replace(ids=known.ids)
            filtered = entering if flags is None else _with_filter(entering, filter_dir, flags)
            return compile_exec(read_process(process), filtered, container, facts)

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


def read_process(path: str) -> "Process":
    """The OCI process object in a file, unchecked; raises Refused if it cannot be read."""
    process: Process = _read_json(path)
    return process


def thread_launch(launch: Launch, needed: Collection[str]) -> Launch | None:
    """`launch`, an exec's, with the filter of its bundle; None if it is not for a thread of a process with others.

    Such a thread cannot enter a user namespace, and the filter must let it have the system calls `needed`.
    """
    known = _known_of(launch.bundle)
    if known.ids is not None or (known.filter_flags is not None and not known.allowed.issuperset(needed)):
        return None
    return launch if known.filter_flags is None else _with_filter(launch, launch.bundle, known.filter_flags)


_WITHOUT_NAMESPACES = (0, 0x7E020000, 0, "SCMP_CMP_MASKED_EQ")
"""The condition on clone's arguments in Docker's profile."""


class _Known(NamedTuple):
    """What every exec asks of a bundle: the flags of its processes' filter, and its user namespace's maps, if any.

    `allowed` are the system calls the filter lets through.
    """

    filter_flags: int | None
    allowed: frozenset[str]
    ids: Ids | None


def _known_of(bundle: str) -> _Known:
    path = os.path.join(bundle, CONFIG_NAME)
    try:
        changed_ns = os.stat(path).st_mtime_ns
    except OSError as error:
        raise _unreadable(path, error) from None
    return _known(bundle, changed_ns)


@functools.lru_cache(_BUNDLES_KEPT)
def _known(bundle: str, changed_ns: int) -> _Known:
    # A container has many execs, and to parse its config.json takes as long as a third of one.
    spec = read_config(bundle)

    def read() -> _Known:
        wanted = spec.get("linux", {}).get("seccomp")
        flags = None if wanted is None else seccomp.filter_flags(wanted)
        return _Known(flags, _allowed(wanted or {}), user_namespace_ids(spec))

    return _checked(read)


def _allowed(wanted: Mapping[str, Any]) -> frozenset[str]:
    """System calls `linux.seccomp` lets through whatever their arguments; clone also if only without new namespaces."""
    allowed: set[str] = set()
    refused: set[str] = set()
    for rule in wanted.get("syscalls") or ():
        conditions = [(one["index"], one["value"], one.get("valueTwo", 0), one["op"]) for one in rule.get("args") or ()]
        always = not conditions or (rule["names"] == ["clone"] and conditions == [_WITHOUT_NAMESPACES])
        (allowed if always and rule["action"] == "SCMP_ACT_ALLOW" else refused).update(rule["names"])
    return frozenset(allowed - refused)


def _read_json(path: str) -> Any:
    try:
        return json.loads(read_file(path))
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise Refused(errno.EINVAL, f"{path} is not JSON: {error}") from None


def _unreadable(path: str, error: OSError) -> Refused:
    return Refused(error.errno or 0, f"cannot read {path}: {error.strerror}")

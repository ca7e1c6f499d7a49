"""What containers have in common, done ahead by an init that does not know yet which container it will be.

A template is the part of a plan that depends neither on the image nor on the container: the namespaces, /proc and
/dev with what hides in them. It is applied below a tmpfs, the stage; `MoveStaged` puts its trees into the root later.
Only a container whose own plan would do just the same, in an order that makes no difference, may use it.
"""

import posixpath
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from runtime.container.facts import HostFacts
from runtime.container.init import Plan
from runtime.container.op import Op, Phase, Refused
from runtime.container.ops_mount import (
    BindMount,
    IsolateMounts,
    LinkInDev,
    MakeDevice,
    MaskPaths,
    MountCgroupV1,
    MountFilesystem,
    MoveStaged,
    OpenTree,
    ReadonlyPaths,
)
from runtime.container.plan import Launch, bounding_ops, clone_flags, mount_ops, user_namespace_ids
from runtime.linux import namespaces

if TYPE_CHECKING:
    from runtime.oci.spec import Spec

_TREES = ("/proc", "/dev")

_OWN = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC
"""A mount of proc or mqueue shows the namespaces it was made in: these must be the container's from birth."""

_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, Refused)


class Template(NamedTuple):
    """`flags` for clone3, and `ops` to apply with the stage as the root; equal templates are interchangeable."""

    flags: int
    ops: tuple[tuple[type, Op], ...]
    """With their types: operations are tuples, and equal to any others of the same values."""


def template_of(spec: "Spec", launch: Launch, facts: HostFacts) -> Template | None:
    """The template a container can start from; None if it has to start from nothing."""
    try:
        flags = clone_flags(spec, launch.netns)
        if user_namespace_ids(spec):
            return None
        if flags & _OWN != _OWN:
            return None
        staged = _staged(mount_ops(spec, launch, facts))
        if staged and not spec.get("hooks"):  # a hook has all capabilities
            staged += bounding_ops(spec["process"])
    except _MALFORMED:
        return None  # whoever starts it from nothing finds out what is wrong
    return None if staged is None else Template(flags, tuple((type(op), op) for op in staged))


def without_staged(plan: Plan, template: Template) -> Plan:
    """What is left to do of `plan`, a container's, in an init that has applied `template`."""
    done = deque(template.ops)  # they are in the plan, and in the same order
    prepare = [Phase(phase.name, _left(phase.ops, done)) for phase in plan.prepare]
    if done:
        raise ValueError(f"not a container of this template: it does not {done[0][1].describe()}")
    return plan._replace(prepare=prepare)


def _left(ops: Sequence[Op], done: deque[tuple[type, Op]]) -> list[Op]:
    left: list[Op] = []
    for op in ops:
        if not done or done[0] != (type(op), op):
            left.append(op)
            continue
        done.popleft()
        if isinstance(op, MountFilesystem) and op.destination in _TREES:
            left.append(MoveStaged(op.destination))
    return left


def _staged(ops: Sequence[Op]) -> list[Op] | None:
    staged: list[Op] = []
    trees: list[str] = []
    for op in ops:
        if isinstance(op, MountFilesystem) and _tree(op.destination):
            # Without a mode a tmpfs takes after the directory below it, and the stage's is not the image's.
            if op.fstype == "tmpfs" and not any(option.startswith("mode=") for option in op.attributes.options):
                return None
            if op.destination in _TREES:
                trees.append(op.destination)
            staged.append(op)
        elif isinstance(op, MountFilesystem | BindMount | MountCgroupV1):
            # What is mounted in or over a tree has its turn between operations of the template.
            if _tree(op.destination) or posixpath.normpath(op.destination) == "/":
                return None
        elif isinstance(op, OpenTree):
            return None  # it comes before the namespace is isolated
        elif isinstance(op, MakeDevice):
            if posixpath.dirname(op.path) == "/dev":
                staged.append(op)
        elif isinstance(op, IsolateMounts | LinkInDev) or (
            isinstance(op, ReadonlyPaths | MaskPaths) and all(path.startswith("/proc/") for path in op.paths)
        ):
            staged.append(op)
    return staged if sorted(trees) == sorted(_TREES) else None


def _tree(path: str) -> bool:
    return f"{posixpath.normpath(path)}/".startswith(tuple(f"{tree}/" for tree in _TREES))

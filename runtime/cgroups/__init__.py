"""Control groups: one manager for v2 and one for v1 and hybrid set-ups, behind the same methods.

Limits come as OCI `linux.resources`; what each becomes is data (`resources`), errors name the limit
(`files`). Imports nothing heavy: the launcher's side and the engine both use it.
"""

import contextlib
import os

from runtime.cgroups.facts import HostFacts, host_facts
from runtime.cgroups.files import remove_tree, subdirectories
from runtime.cgroups.hierarchy import Hierarchies, checked_path, mounted
from runtime.cgroups.oom import OomNotice
from runtime.cgroups.stats import Stats
from runtime.cgroups.v1 import V1Cgroup
from runtime.cgroups.v2 import V2Cgroup

__all__ = [
    "Cgroup",
    "Hierarchies",
    "HostFacts",
    "OomNotice",
    "Stats",
    "host_facts",
    "mounted_roots",
    "names_below",
    "open_cgroup",
    "remove_subtree",
]

Cgroup = V1Cgroup | V2Cgroup


def open_cgroup(path: str, hierarchies: Hierarchies | None = None) -> Cgroup:
    """Return the manager of the cgroup `path`, which need not exist.

    `path` is like "/wherry-ab12cd/<container id>", relative to the root of every hierarchy. Raises
    InvalidParameter for any other form, NotSupported when no cgroups are mounted.
    """
    hierarchies = hierarchies or mounted()
    kind = V2Cgroup if hierarchies.version == 2 else V1Cgroup
    return kind(hierarchies, checked_path(path))


def names_below(path: str, hierarchies: Hierarchies | None = None) -> set[str]:
    """Return the names of the cgroups directly below `path`, in whatever hierarchy; none if there is no such cgroup."""
    names: set[str] = set()
    for root in (hierarchies or mounted()).roots:
        with contextlib.suppress(FileNotFoundError):
            names.update(os.path.basename(found) for found in subdirectories(root + checked_path(path)))
    return names


def mounted_roots() -> list[str]:
    """The mount points below which every container has a cgroup."""
    return mounted().roots


def remove_subtree(path: str, hierarchies: Hierarchies | None = None) -> None:
    """Remove the cgroup `path` and all below it; raises Conflict if one of them has processes."""
    for root in (hierarchies or mounted()).roots:
        remove_tree(root + checked_path(path))

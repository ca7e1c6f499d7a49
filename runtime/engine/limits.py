"""New limits for a container that runs (`docker update`)."""

from __future__ import annotations

from typing import cast

from runtime.cgroups import Cgroup
from runtime.engine.options.model import Document
from runtime.engine.options.resources import resources
from runtime.oci.spec import LinuxResources


def apply_limits(cgroup: Cgroup, host: Document) -> None:
    """Put the limits of `host`, a HostConfig from `merge_limits`, in force; limits on single devices stay.

    Raises InvalidParameter, Conflict (less memory than is in use), NotSupported, NotFound (it has ended).
    """
    limits = resources(host)
    if host.get("PidsLimit") is not None:
        limits["pids"] = {"limit": host["PidsLimit"] if host["PidsLimit"] > 0 else -1}
    cgroup.update(cast(LinuxResources, limits))

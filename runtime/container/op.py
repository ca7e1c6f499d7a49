"""What a plan is made of: operations in named phases, and the state they share while they are applied."""

import os
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from runtime.container.ids import Ids
from runtime.container.report import Report


class Op(Protocol):
    """One step between clone3 and exec.

    `apply` raises OSError, which is reported as "<describe()>: <reason>", or `Refused` with a sentence of its own.
    """

    def describe(self) -> str: ...

    def apply(self, init: "Init") -> None: ...


class Phase(NamedTuple):
    """Operations applied in order; `name` is what a failure in one of them is reported under."""

    name: str
    ops: list[Op]


class Refused(Exception):
    """A failure whose sentence is complete; `errno` tells the caller what kind it is."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno


class Init:
    """The state of one init process while it sets itself up.

    `root` is a descriptor of the container's root directory, once there is one, and `root_path` where that is on the
    host, once somebody asked; `stage` one of the directory below which trees for it stand ready (`template`), -1 if
    there are none. `environment` is what the program will get; operations that know the user or the container may add
    to it. `trees` are detached mounts opened ahead, by what they are of. `host_cgroups` is /proc/self/cgroup as it read
    before a cgroup namespace hid where on the host its cgroups are; empty without such a namespace. `user_namespace` is
    a descriptor of the container's, -1 if that is the host's, and `ids` the maps of it.
    """

    def __init__(self, report: Report, environment: Mapping[str, str], stage: int = -1) -> None:
        self.report = report
        self.stage = stage
        self.environment = dict(environment)
        self.root = -1
        self.root_path: str | None = None
        self.trees: dict[object, int] = {}
        self.host_cgroups = b""
        self.user_namespace = -1
        self.ids: Ids | None = None

    def set_root(self, fd: int) -> None:
        """Make `fd` the container's root directory; it is this object's now."""
        if self.root >= 0:
            os.close(self.root)
        self.root = fd
        self.root_path = None

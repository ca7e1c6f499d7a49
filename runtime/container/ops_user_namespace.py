"""Operations of a container with a user namespace.

Init stays in the host's user namespace until its program's user is set: it mounts, makes devices and writes sysctls
with the host's rights, on file systems whose owners it shifts (idmapped mounts, mount_setattr(2)). So all that is
stored keeps the ids the container sees, whichever ids of the host these are today, and layers are shared by everybody.
"""

import os
from typing import NamedTuple

from runtime.container.ids import Ids
from runtime.container.op import Init
from runtime.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS, setns, unshare
from runtime.linux.user_namespaces import act_on_files_as, make_user_namespace


class MakeUserNamespace(NamedTuple):
    """Made before the process is counted among the container's, for it takes a second one for a moment."""

    ids: Ids

    def describe(self) -> str:
        return "make a user namespace"

    def apply(self, init: Init) -> None:
        init.ids = self.ids
        init.user_namespace = make_user_namespace(self.ids.uids, self.ids.gids)


class OpenUserNamespace(NamedTuple):
    """Another container's."""

    path: str
    ids: Ids

    def describe(self) -> str:
        return f"open the user namespace {self.path}"

    def apply(self, init: Init) -> None:
        init.ids = self.ids
        init.user_namespace = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)


class MakeFilesAsItsRoot(NamedTuple):
    """Mount points and device nodes are root's in the container."""

    ids: Ids

    def describe(self) -> str:
        return "make files as the container's root"

    def apply(self, init: Init) -> None:
        act_on_files_as(self.ids.uid_on_host(0), self.ids.gid_on_host(0))


class EnterUserNamespace(NamedTuple):
    """As its root, with every capability in it and none outside.

    `mounting`: whether the program may mount, in a mount namespace that is its user namespace's then.
    """

    mounting: bool

    def describe(self) -> str:
        return "enter the user namespace"

    def apply(self, init: Init) -> None:
        setns(init.user_namespace, CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if self.mounting:
            unshare(CLONE_NEWNS | CLONE_NEWUTS)

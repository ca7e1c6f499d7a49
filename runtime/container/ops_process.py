"""Operations on the process itself: where it belongs, who it is, what it may do."""

import errno
import os
import resource
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runtime.container.ids import Ids
from runtime.container.op import Init, Refused
from runtime.linux import capabilities, seccomp
from runtime.linux.files import read_file, write_file
from runtime.linux.keyring import join_session_keyring
from runtime.linux.namespaces import CLONE_NEWCGROUP, enter_path, setns, unshare
from runtime.linux.process import (
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    become_user,
    prctl,
    setdomainname,
    sethostname,
)
from runtime.linux.procfs import write_proc
from runtime.oci.rlimits import RLIMITS


class BecomeUndumpable(NamedTuple):
    """Until exec, keep what shares our namespaces from ptracing us or reading our /proc entries (CVE-2016-9962)."""

    def describe(self) -> str:
        return "make init undumpable"

    def apply(self, init: Init) -> None:
        prctl(PR_SET_DUMPABLE, 0)


class SetOomScore(NamedTuple):
    adjustment: int

    def describe(self) -> str:
        return f"set oomScoreAdj to {self.adjustment}"

    def apply(self, init: Init) -> None:
        try:
            write_proc("self/oom_score_adj", str(self.adjustment))
        except PermissionError:
            raise Refused(
                errno.EACCES,
                f"{self.describe()}: permission denied: lowering it needs CAP_SYS_RESOURCE, which this engine does "
                "not have; give a higher one",
            ) from None


class JoinCgroup(NamedTuple):
    """`procs` is a cgroup.procs file of the host; 0 written to it means the writer."""

    procs: str

    def describe(self) -> str:
        return f"join the cgroup {os.path.dirname(self.procs)}"

    def apply(self, init: Init) -> None:
        write_file(self.procs, "0")


class EnterNamespace(NamedTuple):
    """`where` is a path, or a descriptor of a namespace or (pidfd) of a process that is in it."""

    kind: str
    where: str | int
    flags: int

    def describe(self) -> str:
        return f"enter the {self.kind} namespace"

    def apply(self, init: Init) -> None:
        if isinstance(self.where, int):
            setns(self.where, self.flags)
        else:
            enter_path(self.where, self.flags)


class EnterContainer(NamedTuple):
    """The namespaces of the process at `pidfd`, and its root directory.

    setns(2) leaves a process at the mount namespace's own root, which is not the container's where the engine itself
    runs in a chroot: pivot_root(2) moved that chroot's root, no more. With `ids` it has a user namespace, which is
    opened here and entered last (`ops_user_namespace`).
    """

    pidfd: int
    flags: int
    ids: Ids | None = None

    def describe(self) -> str:
        return "enter the container"

    def apply(self, init: Init) -> None:
        fdinfo = read_file(f"/proc/thread-self/fdinfo/{self.pidfd}").decode()
        pid = next(line.split()[1] for line in fdinfo.splitlines() if line.startswith("Pid:"))
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if self.ids:
            init.ids = self.ids
            init.user_namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self.pidfd, self.flags)
            os.fchdir(root)
            os.chroot(".")
        finally:
            os.close(root)


class NewCgroupNamespace(NamedTuple):
    """Made by unshare, not clone3: its root is the cgroup the process is in at that moment."""

    def describe(self) -> str:
        return "make a cgroup namespace"

    def apply(self, init: Init) -> None:
        init.host_cgroups = read_file("/proc/self/cgroup")
        unshare(CLONE_NEWCGROUP)


class NewSessionKeyring(NamedTuple):
    name: str

    def describe(self) -> str:
        return "make a session keyring"

    def apply(self, init: Init) -> None:
        try:
            join_session_keyring(self.name)
        except OSError as error:
            # ENOSYS: a kernel without keyrings. EDQUOT: the user's quota is used up; runc goes on as well.
            if error.errno not in (errno.ENOSYS, errno.EDQUOT):
                raise


class Sysctl(NamedTuple):
    """Written through the host's /proc, which the image cannot have prepared (CVE-2025-52881).

    /proc/sys/net and the ipc and uts files show the namespaces of whoever opens them.
    """

    name: str
    value: str

    def describe(self) -> str:
        return f"set the sysctl {self.name} to {self.value}"

    def apply(self, init: Init) -> None:
        # sysctl(8): a slash stands for a dot inside a component, as in net.ipv4.conf.eth0/100.forwarding.
        path = self.name.translate(_SYSCTL_SEPARATORS)
        write_proc(f"sys/{path}", self.value)


_SYSCTL_SEPARATORS = str.maketrans("./", "/.")


class SetHostname(NamedTuple):
    name: str

    def describe(self) -> str:
        return f"set the hostname to {self.name}"

    def apply(self, init: Init) -> None:
        sethostname(self.name)


class SetDomainname(NamedTuple):
    name: str

    def describe(self) -> str:
        return f"set the domainname to {self.name}"

    def apply(self, init: Init) -> None:
        setdomainname(self.name)


class SetRlimit(NamedTuple):
    """Raising a hard limit needs CAP_SYS_RESOURCE: only the kernel's refusal is an error."""

    name: str
    soft: int
    hard: int

    def describe(self) -> str:
        return f"set {self.name} to {self.soft}:{self.hard}"

    def apply(self, init: Init) -> None:
        number = RLIMITS[self.name]
        try:
            resource.setrlimit(number, (_signed(self.soft), _signed(self.hard)))
        except (PermissionError, ValueError):
            # CPython says ValueError for the kernel's EPERM here.
            hard = resource.getrlimit(number)[1]
            raise Refused(
                errno.EPERM,
                f"error setting rlimit {self.name} to {self.soft}:{self.hard}: this engine may not raise its hard "
                f"limit of {hard}; ask for at most that, or raise the limit of the engine",
            ) from None


def _signed(limit: int) -> int:
    """RLIM_INFINITY is the largest unsigned number in config.json and -1 in Python."""
    return limit - 2**64 if limit >= 2**63 else limit


class SetApparmorProfile(NamedTuple):
    """Takes effect at exec; written while the host's /proc is still what /proc is."""

    profile: str

    def describe(self) -> str:
        return f"apply the apparmor profile {self.profile}"

    def apply(self, init: Init) -> None:
        own = "thread-self/attr/apparmor/exec"
        write_proc(own if os.path.exists(f"/proc/{own}") else "thread-self/attr/exec", f"exec {self.profile}")


class SetSelinuxLabel(NamedTuple):
    label: str

    def describe(self) -> str:
        return f"apply the SELinux label {self.label}"

    def apply(self, init: Init) -> None:
        write_proc("thread-self/attr/exec", self.label)


class SetNoNewPrivileges(NamedTuple):
    def describe(self) -> str:
        return "set no_new_privs"

    def apply(self, init: Init) -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)


class DropBoundingCapabilities(NamedTuple):
    """Done as root, before the user changes: it needs CAP_SETPCAP."""

    keep: Sequence[str]

    def describe(self) -> str:
        return "drop capabilities from the bounding set"

    def apply(self, init: Init) -> None:
        capabilities.bounding_drop(self.keep)


class BecomeUser(NamedTuple):
    """Permitted capabilities survive (PR_SET_KEEPCAPS) for `SetCapabilities` to choose from."""

    uid: int
    gid: int
    additional_gids: Sequence[int]
    umask: int

    def describe(self) -> str:
        return f"become user {self.uid}:{self.gid}"

    def apply(self, init: Init) -> None:
        prctl(PR_SET_KEEPCAPS, 1)
        become_user(self.uid, self.gid, self.additional_gids)
        prctl(PR_SET_KEEPCAPS, 0)
        os.umask(self.umask)


class SetHome(NamedTuple):
    """$HOME of the user, from the container's /etc/passwd, unless config.json sets one."""

    uid: int

    def describe(self) -> str:
        return f"look up the home directory of user {self.uid}"

    def apply(self, init: Init) -> None:
        if "HOME" not in init.environment:
            init.environment["HOME"] = self._home()

    def _home(self) -> str:
        try:
            passwd = read_file("/etc/passwd").decode(errors="surrogateescape")
        except OSError:
            return "/"
        for line in passwd.splitlines():
            fields = line.split(":")
            if len(fields) > 5 and fields[2] == str(self.uid):
                return fields[5] or "/"
        return "/"


class ChangeDirectory(NamedTuple):
    """Into the program's directory, and sure that it is inside the container (CVE-2024-21626)."""

    cwd: str
    retried: bool
    """Whether this is tried again as the program's user, who may enter where root may not (NFS, FUSE)."""

    def describe(self) -> str:
        return f'chdir to cwd ("{self.cwd}") set in config.json failed'

    def apply(self, init: Init) -> None:
        try:
            os.chdir(self.cwd)
        except PermissionError as error:
            if self.retried:
                return
            raise OSError(error.errno, error.strerror) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror) from None
        try:
            inside = os.getcwd().startswith("/")
        except FileNotFoundError:  # "(unreachable)/…"
            inside = False
        if not inside:
            raise Refused(
                errno.EPERM,
                f'cwd ("{self.cwd}") set in config.json is outside of the container\'s root: refusing to start',
            )


class SetCapabilities(NamedTuple):
    sets: Mapping[str, Sequence[str]]

    def describe(self) -> str:
        return "set capabilities"

    def apply(self, init: Init) -> None:
        sets = self.sets
        capabilities.set_caps(sets.get("effective", ()), sets.get("permitted", ()), sets.get("inheritable", ()))
        capabilities.set_ambient(sets.get("ambient", ()))


class InstallSeccomp(NamedTuple):
    bpf: bytes
    flags: int

    def describe(self) -> str:
        return "install the seccomp filter"

    def apply(self, init: Init) -> None:
        seccomp.install(self.bpf, self.flags)


class AwaitStart(NamedTuple):
    """Say that the container is created, and wait for `start` to write to the fifo (open for reading and writing)."""

    fifo: int

    def describe(self) -> str:
        return "wait for start"

    def apply(self, init: Init) -> None:
        init.report.created()
        os.read(self.fifo, 1)


class RuntimeHooks(NamedTuple):
    """Let the parent run the prestart and createRuntime hooks, in its own namespaces."""

    def describe(self) -> str:
        return "run the prestart and createRuntime hooks"

    def apply(self, init: Init) -> None:
        if not init.report.ask_for_hooks():
            raise Refused(errno.ECANCELED, "a prestart or createRuntime hook failed")

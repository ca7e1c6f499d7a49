"""Operations on the mount namespace: the root, what is mounted in it, what is hidden, and the move into it.

Mounts are made detached and attached to an open descriptor that was resolved inside the root (`rootpath`): neither an
image's symbolic links nor a race can put one elsewhere.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from runtime.container.mount_options import Attributes
from runtime.container.op import Init, Refused
from runtime.container.rootpath import make_directory, make_file, open_in
from runtime.linux import mounts
from runtime.linux.files import read_file
from runtime.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


class IsolateMounts(NamedTuple):
    """Nothing mounted from here on shows on the host; with MS_SLAVE the host's own later mounts still show here."""

    propagation: int

    def describe(self) -> str:
        return "isolate the mount namespace"

    def apply(self, init: Init) -> None:
        mounts.mount("none", "/", None, mounts.MS_REC | self.propagation)


class OpenTree(NamedTuple):
    """Take hold of a bind mount's source while it is the host's peer still, for a mount that shares or follows it."""

    source: str
    recursive: bool
    subpath: str

    def describe(self) -> str:
        return f'error mounting "{self.source}"'

    def apply(self, init: Init) -> None:
        init.trees[self] = _open_source(self)


class MountOverlayRoot(NamedTuple):
    """`lower` with the topmost layer first; without `upper` and `work` the root is read-only."""

    lower: Sequence[str]
    upper: str | None
    work: str | None
    target: str

    def describe(self) -> str:
        return "mount the root filesystem (overlay)"

    def apply(self, init: Init) -> None:
        os.makedirs(self.target, exist_ok=True)
        with contextlib.ExitStack() as opened:
            shown = self if init.user_namespace < 0 else self._shifted(init.user_namespace, opened)
            try:
                root = shown._mount_by_layer()
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                root = shown._mount_by_path()
        if self.upper and self.work and os.fstatvfs(root).f_flag & os.ST_RDONLY:
            self._fail_read_only(self.work)
        init.set_root(root)

    def _shifted(self, user_namespace: int, opened: contextlib.ExitStack) -> "MountOverlayRoot":
        """The same layers with the container's owners; the mounts they are seen by go with the old root."""
        with _closing(os.open(self.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as target:
            layers = _ShiftedLayers(user_namespace, target, opened)
            lower = [layers.add(path) for path in self.lower]
            if not self.upper or not self.work:
                return self._replace(lower=lower)
            upper, work = layers.add_writable(self.upper, self.work)
        return self._replace(lower=lower, upper=upper, work=work)

    @staticmethod
    def _fail_read_only(work: str) -> None:
        """What is wrong with the disk? The kernel tells its log only, and mounts read-only (fs/overlayfs/super.c)."""
        probe = os.path.join(work, "probe")
        os.mkdir(probe)
        os.rmdir(probe)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), work)

    def _mount_by_layer(self) -> int:
        # "lowerdir+" (Linux 6.8) takes any number of layers; one string of them must fit in 256 bytes here.
        with _closing(mounts.fsopen("overlay")) as fs:
            mounts.fsconfig_string(fs, "source", "overlay")
            for layer in self.lower:
                mounts.fsconfig_string(fs, "lowerdir+", layer)
            if self.upper and self.work:
                mounts.fsconfig_string(fs, "upperdir", self.upper)
                mounts.fsconfig_string(fs, "workdir", self.work)
            mounts.fsconfig_create(fs)
            root = mounts.fsmount(fs)
        with _closing(os.open(self.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as target:
            mounts.move_mount(root, target, self.target)
        return root

    def _mount_by_path(self) -> int:
        options = f"lowerdir={':'.join(self.lower)}"
        if self.upper and self.work:
            options += f",upperdir={self.upper},workdir={self.work}"
        if len(options) >= os.sysconf("SC_PAGESIZE"):
            raise Refused(
                errno.E2BIG,
                f"this kernel cannot mount an image of {len(self.lower)} layers with paths this long: "
                "use Linux 6.8 or later, or an image with fewer layers",
            )
        mounts.mount("overlay", self.target, "overlay", 0, options)
        return os.open(self.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class _ShiftedLayers:
    """Directories for an overlay, each by a mount that shows it with the owners a user namespace gives them.

    These mounts are attached, one over the other, on the directory `target`: overlayfs takes no detached ones.
    """

    def __init__(self, user_namespace: int, target: int, opened: contextlib.ExitStack) -> None:
        self._user_namespace = user_namespace
        self._target = target
        self._opened = opened
        self._trees: list[int] = []

    def add(self, path: str) -> str:
        """A name by which overlayfs finds it."""
        tree = mounts.open_tree(path)
        self._opened.callback(os.close, tree)
        _shift_owners(tree, self._user_namespace, path)
        mounts.move_mount(tree, self._target)
        self._trees.append(tree)
        return f"/proc/self/fd/{tree}"

    def add_writable(self, upper: str, work: str) -> tuple[str, str]:
        """overlayfs wants these two from one mount."""
        both = os.path.commonpath((upper, work))
        name = self.add(both)
        return f"{name}/{os.path.relpath(upper, both)}", f"{name}/{os.path.relpath(work, both)}"

    def unmount(self) -> None:
        for tree in reversed(self._trees):
            mounts.umount(f"/proc/self/fd/{tree}", mounts.MNT_DETACH)


def _shift_owners(tree: int, user_namespace: int, path: str) -> None:
    try:
        mounts.shift_owners(tree, user_namespace)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Refused(
            errno.EINVAL,
            f"{path} is on a file system whose owners cannot be shifted for a user namespace (idmapped mounts): use "
            "ext4, xfs, btrfs, or tmpfs from Linux 6.3 on; or --userns host",
        ) from None


class BindRoot(NamedTuple):
    """A directory as the root, with what is mounted below it."""

    source: str

    def describe(self) -> str:
        return f"mount the root filesystem {self.source}"

    def apply(self, init: Init) -> None:
        root = mounts.open_tree(self.source, recursive=True)
        with _closing(os.open(self.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as target:
            mounts.move_mount(root, target, self.source)
        init.set_root(root)


class MountFilesystem(NamedTuple):
    """A filesystem that is not a bind mount: proc, tmpfs, sysfs, mqueue, devpts, cgroup2…"""

    fstype: str
    source: str
    destination: str
    attributes: Attributes
    subpath: str = ""

    def describe(self) -> str:
        return f'error mounting "{self.source}" to rootfs at "{self.destination}"'

    def apply(self, init: Init) -> None:
        if self.subpath:
            self._mount_part(init)
            return
        with _closing(make_directory(init.root, self.destination)) as target:
            _check_target(init, target, self, plain=self.fstype in ("proc", "sysfs"))
            with _closing(self._create(init, target)) as tree:
                mounts.move_mount(tree, target)

    def _mount_part(self, init: Init) -> None:
        """Only `subpath` of it. A detached mount cannot be cloned before Linux 6.15, so it is attached for a moment."""
        with _closing(self._create(init, init.root)) as tree:
            mounts.move_mount(tree, init.root)
            try:
                with _closing(_open_beneath(tree, self.source, self.subpath)) as part:
                    part_tree = mounts.open_tree(b"", dir_fd=part)
            finally:
                mounts.umount(f"/proc/self/fd/{tree}", mounts.MNT_DETACH)
        with _closing(part_tree):
            make = make_directory if stat.S_ISDIR(os.stat(part_tree).st_mode) else make_file
            with _closing(make(init.root, self.destination)) as target:
                _check_target(init, target, self)
                mounts.move_mount(part_tree, target, self.destination)

    def _create(self, init: Init, target: int) -> int:
        """The detached mount, for the directory `target`."""
        if init.user_namespace < 0 or self.fstype != "overlay":
            return self._create_of(self._options(init), target)
        with contextlib.ExitStack() as opened:
            layers = _ShiftedLayers(init.user_namespace, target, opened)
            try:
                return self._create_of(self._shifted_options(layers), target)
            finally:
                layers.unmount()  # by descriptors that are still open

    def _shifted_options(self, layers: _ShiftedLayers) -> list[str]:
        named = dict(option.split("=", 1) for option in self.attributes.options if "=" in option)
        upper = work = ""
        if "upperdir" in named:
            upper, work = layers.add_writable(named["upperdir"], named["workdir"])
        writable = {"upperdir": f"upperdir={upper}", "workdir": f"workdir={work}"}
        options = []
        for option in self.attributes.options:
            key, _, value = option.partition("=")
            options.append(f"{key}={layers.add(value)}" if key == "lowerdir+" else writable.get(key, option))
        return options

    def _options(self, init: Init) -> tuple[str, ...]:
        """Those for the file system; ids in them are the container's."""
        if init.ids is None:
            return self.attributes.options
        shift = {"uid": init.ids.uid_on_host, "gid": init.ids.gid_on_host}
        options = []
        for option in self.attributes.options:
            key, _, value = option.partition("=")
            shifted = key in shift and value.isdecimal()
            options.append(f"{key}={shift[key](int(value))}" if shifted else option)
        return tuple(options)

    def _create_of(self, options: Sequence[str], target: int) -> int:
        with _closing(mounts.fsopen(self.fstype)) as fs:
            mounts.fsconfig_string(fs, "source", self.source)
            if self.fstype == "tmpfs" and not any(option.startswith("mode=") for option in options):
                # A tmpfs over a directory looks like that directory, as in runc.
                options = (*options, f"mode={stat.S_IMODE(os.stat(target).st_mode):o}")
            if self.attributes.set & mounts.MOUNT_ATTR_RDONLY:
                # The filesystem itself too, as mount(2) has it: a mount can be made writable again, this cannot.
                options = (*options, "ro")
            for option in options:
                key, equals, value = option.partition("=")
                if equals:
                    mounts.fsconfig_string(fs, key, value)
                else:
                    mounts.fsconfig_flag(fs, key)
            mounts.fsconfig_create(fs)
            tree = mounts.fsmount(fs, self.attributes.set | self.attributes.recursive_set)
        if self.attributes.propagation:
            mounts.mount_setattr(tree, propagation=self.attributes.propagation)
        return tree


# Files of /proc that lxcfs and the like put their own over; nothing else there may be covered (as in runc).
_COVERABLE_IN_PROC = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)


def _check_target(
    init: Init,
    target: int,
    mount: "MountFilesystem | BindMount | MoveStaged",
    *,
    source: os.stat_result | None = None,
    plain: bool = False,
) -> None:
    """Refuse, wherever the image's links led, the root itself and what would hide /proc (CVE-2019-16884).

    `source`: what is bound, for a procfs may stand at /proc. `plain`: no links may have led anywhere, so that
    what is masked by path is what was mounted (CVE-2019-19921).
    """
    if init.root_path is None:
        init.root_path = os.readlink(f"/proc/self/fd/{init.root}").rstrip("/")
    path = os.readlink(f"/proc/self/fd/{target}").removeprefix(init.root_path)
    if plain:
        if path != os.path.normpath(mount.destination):
            raise Refused(errno.ENOTDIR, f"{mount.describe()}: it must be mounted on an ordinary directory")
        return
    if path in ("", "/"):
        raise Refused(errno.EINVAL, f"{mount.describe()}: it leads to the root itself")
    if path == "/proc" and not (source and _is_procfs(source)):
        raise Refused(errno.EPERM, f'{mount.describe()}: "/proc" can be covered by a procfs only')
    if path.startswith("/proc/") and path not in _COVERABLE_IN_PROC:
        raise Refused(errno.EPERM, f'{mount.describe()}: "{path}" cannot be mounted because it is inside /proc')


def _open_source(wanted: OpenTree) -> int:
    """A detached bind mount of a path of the host; no link leads `subpath` out of the source."""
    if not wanted.subpath:
        return mounts.open_tree(wanted.source, recursive=wanted.recursive)
    with (
        _closing(os.open(wanted.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as base,
        _closing(_open_beneath(base, wanted.source, wanted.subpath)) as part,
    ):
        return mounts.open_tree(b"", dir_fd=part, recursive=wanted.recursive)


def _open_beneath(base: int, source: str, subpath: str) -> int:
    try:
        return openat2(base, subpath, os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise Refused(
                errno.EINVAL, f"path concatenation escapes the base directory, base: {source}, subpath: {subpath}"
            ) from None
        reason = (error.strerror or "").lower()
        raise Refused(error.errno or 0, f"cannot access path {source}/{subpath}: {reason}") from None


class MoveStaged(NamedTuple):
    """A tree of mounts that was made ahead below the stage (`template`), to the same place below the root."""

    destination: str

    def describe(self) -> str:
        return f'error mounting "{self.destination}" to rootfs at "{self.destination}"'

    def apply(self, init: Init) -> None:
        with (
            _closing(make_directory(init.root, self.destination)) as target,
            _closing(open_in(init.stage, self.destination)) as tree,
        ):
            _check_target(init, target, self, plain=True)
            mounts.move_mount(tree, target, self.destination)


class BindMount(NamedTuple):
    """`source` is a path of the host; of it, `subpath` alone if there is one."""

    source: str
    destination: str
    recursive: bool
    attributes: Attributes
    subpath: str = ""
    shifted: bool = False
    """Whether a user namespace, if there is one, decides which owners it shows (option "idmap")."""

    def describe(self) -> str:
        return f'error mounting "{self.source}" to rootfs at "{self.destination}"'

    def apply(self, init: Init) -> None:
        attributes = self.attributes
        wanted = OpenTree(self.source, self.recursive, self.subpath)
        tree = init.trees.pop(wanted, None)
        with _closing(_open_source(wanted) if tree is None else tree) as tree:
            info = os.stat(tree)
            is_directory = stat.S_ISDIR(info.st_mode)
            make = make_directory if is_directory else make_file
            try:
                target = make(init.root, self.destination)
            except NotADirectoryError:
                raise self._mismatch() from None
            with _closing(target):
                if is_directory != stat.S_ISDIR(os.stat(target).st_mode):
                    raise self._mismatch()
                _check_target(init, target, self, source=info)
                if self.shifted and init.user_namespace >= 0:
                    _shift_owners(tree, init.user_namespace, self.source)
                if attributes.set or attributes.clear:
                    mounts.mount_setattr(tree, set_=attributes.set, clear=attributes.clear)
                if attributes.recursive_set or attributes.recursive_clear:
                    mounts.mount_setattr(
                        tree,
                        set_=attributes.recursive_set,
                        clear=attributes.recursive_clear,
                        recursive=True,
                    )
                if attributes.propagation:
                    mounts.mount_setattr(
                        tree,
                        propagation=attributes.propagation,
                        recursive=attributes.propagation_recursive,
                    )
                mounts.move_mount(tree, target, self.destination)

    def _mismatch(self) -> Refused:
        return Refused(
            errno.ENOTDIR,
            f"{self.describe()}: not a directory: Are you trying to mount a directory onto a file "
            "(or vice-versa)? Check if the specified host path exists and is the expected type",
        )


def _is_procfs(info: os.stat_result) -> bool:
    """Whether this is the host's /proc itself, which is mounted still."""
    proc = os.stat("/proc")
    return (info.st_dev, info.st_ino) == (proc.st_dev, proc.st_ino)


class MountCgroupV1(NamedTuple):
    """A tmpfs with one directory a hierarchy, each showing the container's own cgroup only.

    `hierarchies` are (names of its controllers, mount point on the host, key in /proc/self/cgroup).
    """

    destination: str
    hierarchies: Sequence[tuple[Sequence[str], str, str]]
    attributes: Attributes

    def describe(self) -> str:
        return f'error mounting "cgroup" to rootfs at "{self.destination}"'

    def apply(self, init: Init) -> None:
        own = {}
        for line in (init.host_cgroups or read_file("/proc/self/cgroup")).decode().splitlines():
            _, controllers, path = line.split(":", 2)
            own[controllers] = path
        with _closing(make_directory(init.root, self.destination)) as target:
            tree = tmpfs("cgroup", "mode=755", attributes=self.attributes.set & ~mounts.MOUNT_ATTR_RDONLY)
            mounts.move_mount(tree, target)
        with _closing(tree):
            for names, mount_point, key in self.hierarchies:
                self._bind(tree, names, f"{mount_point}{own.get(key, '/')}")
            mounts.mount_setattr(tree, set_=self.attributes.set, recursive=True)

    def _bind(self, tree: int, names: Sequence[str], source: str) -> None:
        directory = ",".join(names)
        os.mkdir(directory, 0o755, dir_fd=tree)
        if len(names) > 1:
            for name in names:
                os.symlink(directory, name, dir_fd=tree)
        with _closing(mounts.open_tree(source)) as cgroup:
            mounts.move_mount(cgroup, tree, name=directory)


def tmpfs(source: str, *options: str, attributes: int) -> int:
    """A detached tmpfs with `options` (key=value)."""
    with _closing(mounts.fsopen("tmpfs")) as fs:
        mounts.fsconfig_string(fs, "source", source)
        for option in options:
            mounts.fsconfig_string(fs, *option.split("=", 1))
        mounts.fsconfig_create(fs)
        return mounts.fsmount(fs, attributes)


def _empty_directory() -> int:
    return tmpfs(
        "tmpfs",
        "nr_inodes=1",
        "nr_blocks=1",
        attributes=mounts.MOUNT_ATTR_RDONLY
        | mounts.MOUNT_ATTR_NOSUID
        | mounts.MOUNT_ATTR_NODEV
        | mounts.MOUNT_ATTR_NOEXEC,
    )


class MaskPaths(NamedTuple):
    """Hide files behind the container's null device and directories behind one empty tmpfs, both read-only.

    Both come from descriptors this process made or checked (CVE-2025-31133). A path that is not there is left alone.
    """

    paths: Sequence[str]

    def describe(self) -> str:
        return "mask paths"

    def apply(self, init: Init) -> None:
        empty = -1
        # Closed at the end, when all are attached: to close a detached mount takes the kernel a grace period.
        with _closing(open_in(init.root, "/dev/null")) as null, contextlib.ExitStack() as opened:
            status = os.stat(null)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
                raise Refused(
                    errno.EINVAL, "/dev/null in the container is not the null device: cannot mask paths with it"
                )
            for path in self.paths:
                try:
                    target = open_in(init.root, path)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                with _closing(target):
                    if not stat.S_ISDIR(os.stat(target).st_mode):
                        tree = mounts.open_tree(b"", dir_fd=null)
                        opened.callback(os.close, tree)
                        # Read-only also stops chmod(2) and chown(2) of the covering file.
                        mounts.mount_setattr(tree, set_=mounts.MOUNT_ATTR_RDONLY)
                    else:
                        tree = _empty_directory() if empty < 0 else mounts.open_tree(b"", dir_fd=empty)
                        opened.callback(os.close, tree)
                        empty = tree
                    mounts.move_mount(tree, target, path)


class ReadonlyPaths(NamedTuple):
    """Bind each path on itself, read-only; what is not there is left alone."""

    paths: Sequence[str]

    def describe(self) -> str:
        return "make paths read-only"

    def apply(self, init: Init) -> None:
        for path in self.paths:
            try:
                target = open_in(init.root, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with (
                _closing(target),
                _closing(mounts.open_tree(b"", dir_fd=target, recursive=True)) as tree,
            ):
                mounts.mount_setattr(tree, set_=mounts.MOUNT_ATTR_RDONLY, recursive=True)
                mounts.move_mount(tree, target, path)


class MakeDirectory(NamedTuple):
    """The program's directory, if the image has none."""

    path: str

    def describe(self) -> str:
        return f"make the directory {self.path}"

    def apply(self, init: Init) -> None:
        try:
            os.close(make_directory(init.root, self.path))
        except OSError as error:
            # Whether it can be entered is for ChangeDirectory to say, in the words people know.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ELOOP):
                raise


class ReadonlyRoot(NamedTuple):
    def describe(self) -> str:
        return "make the root filesystem read-only"

    def apply(self, init: Init) -> None:
        mounts.mount_setattr(init.root, set_=mounts.MOUNT_ATTR_RDONLY)


class PivotRoot(NamedTuple):
    """Make the container's root "/", and detach the host's.

    pivot_root(2) with both arguments "." stacks the old root on the new: no directory for it is needed.
    """

    def describe(self) -> str:
        return "pivot_root into the root filesystem"

    def apply(self, init: Init) -> None:
        old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with _closing(old):
            os.fchdir(init.root)
            mounts.pivot_root(".", ".")
            os.fchdir(old)
            # The unmount below must not reach the host where the old root was a shared mount.
            mounts.mount("none", ".", None, mounts.MS_REC | mounts.MS_SLAVE)
            mounts.umount(".", mounts.MNT_DETACH)
        os.chdir("/")


class UseCurrentRoot(NamedTuple):
    """Having joined a container's mount namespace, "/" is its root."""

    def describe(self) -> str:
        return "open the container's root"

    def apply(self, init: Init) -> None:
        init.set_root(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


class SetRootPropagation(NamedTuple):
    propagation: int

    def describe(self) -> str:
        return "set the propagation of the root filesystem"

    def apply(self, init: Init) -> None:
        mounts.mount("none", "/", None, self.propagation)


class MakeDevice(NamedTuple):
    path: str
    kind: int
    """S_IFCHR, S_IFBLK or S_IFIFO."""
    device: int
    mode: int
    uid: int
    gid: int

    def describe(self) -> str:
        return f"make the device {self.path}"

    def apply(self, init: Init) -> None:
        parent_path, name = os.path.split(self.path)
        with _closing(make_directory(init.root, parent_path)) as parent:
            try:
                os.mknod(name, self.kind | self.mode, self.device, dir_fd=parent)
            except FileExistsError:
                self._check_existing(parent, name)
                return
            except PermissionError:
                # No CAP_MKNOD here, or the device cgroup forbids making one: show the host's instead.
                self._bind_from_host(init)
                return
            if self.uid or self.gid:
                ids = init.ids
                uid, gid = (ids.uid_on_host(self.uid), ids.gid_on_host(self.gid)) if ids else (self.uid, self.gid)
                os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)

    def _check_existing(self, parent: int, name: str) -> None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) != self.kind or status.st_rdev != self.device:
            raise Refused(errno.EEXIST, f"{self.path} in the container is not the device config.json asks for")

    def _bind_from_host(self, init: Init) -> None:
        with (
            _closing(mounts.open_tree(self.path)) as tree,
            _closing(make_file(init.root, self.path)) as target,
        ):
            # It stays usable as a device; its mode and owner, which are the host's, cannot be changed.
            mounts.mount_setattr(tree, set_=mounts.MOUNT_ATTR_RDONLY)
            mounts.move_mount(tree, target, self.path)


class LinkInDev(NamedTuple):
    """A symbolic link in /dev; one that is there already stays."""

    name: str
    target: str

    def describe(self) -> str:
        return f"link /dev/{self.name} to {self.target}"

    def apply(self, init: Init) -> None:
        with _closing(make_directory(init.root, "/dev")) as dev, contextlib.suppress(FileExistsError):
            os.symlink(self.target, self.name, dir_fd=dev)

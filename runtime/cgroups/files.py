"""Reading and writing cgroup control files, and what their errors mean."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from runtime.errors import (
    AlreadyExists,
    Conflict,
    InvalidParameter,
    NotFound,
    NotSupported,
    PermissionDenied,
    SystemFault,
    WherryError,
)

_BUSY_RETRY_S = (0.0005, 0.001, 0.002, 0.004, 0.005, 0.0075)  # 20 ms in all


class Write(NamedTuple):
    """One line to write into one control file."""

    controller: str
    file: str
    value: str
    what: str
    """The limit in a person's words, for errors: "memory limit"."""
    optional: bool = False
    """Whether a kernel without the file obeys anyway."""


def write_file(path: str, value: str) -> None:
    """Write `value` in one write(2); the file must exist."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read_file(path: str) -> str:
    """Return the file's text without its last newline."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks).decode().rstrip("\n")


def read_table(path: str) -> dict[str, int]:
    """Return a "flat keyed" file (cgroup-v2.rst), a key and a number a line; empty if there is no file."""
    try:
        text = read_file(path)
    except FileNotFoundError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in text.splitlines())}


def apply(write: Write, directory: str) -> None:
    """Carry out `write` in a cgroup's directory; raises a WherryError that names the limit."""
    try:
        write_file(f"{directory}/{write.file}", write.value)
    except FileNotFoundError:
        if not os.path.isdir(directory):
            raise gone(directory) from None
        if not write.optional:
            raise unsupported(write) from None
    except OSError as error:
        raise _explained(write, error) from error


def gone(directory: str) -> NotFound:
    """Return the error for a cgroup that is not there, never made or removed meanwhile."""
    return NotFound(f"there is no cgroup {directory}: its container has ended")


def unsupported(write: Write) -> NotSupported:
    """Return the error for a host that cannot carry out `write`."""
    return NotSupported(
        f"cannot set the {write.what}: this kernel offers no {write.file}; "
        f"leave the limit out, or boot a kernel with the {write.controller} cgroup controller enabled"
    )


def _explained(write: Write, error: OSError) -> WherryError:
    what = f"{write.what} {write.value!r}"
    if error.errno == errno.EACCES and write.controller == "cpuset":
        return InvalidParameter(f"invalid {what}: choose from those this host lets containers use")
    if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.EOVERFLOW):
        return InvalidParameter(f"invalid {what}: the kernel does not accept it in {write.file}")
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return InvalidParameter(f"invalid {what}: there is no such device")
    if error.errno == errno.EBUSY:
        return Conflict(f"cannot set {what}: more than that is in use now; free some first")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDenied(
            f"cannot set {what}: {error.strerror}; the engine needs root and a writable cgroup filesystem"
        )
    return SystemFault(f"cannot set {what} in {error.filename or write.file}: {error.strerror}")


def subdirectories(directory: str) -> list[str]:
    """Return the paths of the cgroups directly below."""
    with os.scandir(directory) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def read_pids(directory: str) -> list[int]:
    """Return the processes of a cgroup and of all below it, but not those of foreign pid namespaces."""
    return sorted(pid for pid in _pids(directory) if pid != 0)


def _pids(directory: str) -> Iterator[int]:
    try:
        pids = read_file(f"{directory}/cgroup.procs").split()
        below = subdirectories(directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # removed before or while it was read
            return
        raise
    yield from map(int, pids)
    for subdirectory in below:
        yield from _pids(subdirectory)


def make(directory: str) -> None:
    """Make one cgroup; raises AlreadyExists, FileNotFoundError without its parent, otherwise SystemFault."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        raise AlreadyExists(f"cgroup {directory} exists already: delete it first") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SystemFault(
            f"cannot make cgroup {directory}: {error.strerror}; the engine needs root and a writable cgroup filesystem"
        ) from error


def remove_if_empty(directory: str) -> None:
    """Undo `make` of a parent, unless another cgroup has moved in below or it is gone."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def remove_tree(directory: str) -> None:
    """Remove a cgroup and those below it; none of them may have a live process.

    A process leaves its cgroup a moment after it can be waited for, so "busy" is waited out, for 20 ms at
    most. Raises Conflict when it still has processes then. No directory, no error.
    """
    for pause_s in (*_BUSY_RETRY_S, None):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise SystemFault(f"cannot remove cgroup {directory}: {error.strerror}") from error
            if pause_s is None:
                raise _still_busy(directory) from error
        below = subdirectories(directory)
        if below:
            for subdirectory in below:
                remove_tree(subdirectory)
        else:
            time.sleep(pause_s)


def _still_busy(directory: str) -> Conflict:
    pids = read_pids(directory)
    holders = f"processes {', '.join(map(str, pids))} are" if pids else "a process the engine cannot see is"
    return Conflict(f"cannot remove cgroup {directory}: {holders} still in it; end them first")

"""Error numbers as the guest's Linux knows them (asm-generic/errno.h); other systems count differently."""

import errno

_LINUX = {
    "EPERM": 1, "ENOENT": 2, "EINTR": 4, "EIO": 5, "ENXIO": 6, "E2BIG": 7, "EBADF": 9, "EAGAIN": 11, "ENOMEM": 12,
    "EACCES": 13, "EFAULT": 14, "EBUSY": 16, "EEXIST": 17, "EXDEV": 18, "ENODEV": 19, "ENOTDIR": 20, "EISDIR": 21,
    "EINVAL": 22, "ENFILE": 23, "EMFILE": 24, "ENOTTY": 25, "ETXTBSY": 26, "EFBIG": 27, "ENOSPC": 28, "ESPIPE": 29,
    "EROFS": 30, "EMLINK": 31, "EPIPE": 32, "ERANGE": 34, "EDEADLK": 35, "ENAMETOOLONG": 36, "ENOLCK": 37,
    "ENOSYS": 38, "ENOTEMPTY": 39, "ELOOP": 40, "ENODATA": 61, "EOVERFLOW": 75, "EOPNOTSUPP": 95, "ENOTSUP": 95,
    "ETIMEDOUT": 110, "ESTALE": 116, "EDQUOT": 122,
}  # fmt: skip

ENOENT, EIO, EBADF, EINVAL, EROFS, ENOSYS, ESTALE = (
    _LINUX[name] for name in ("ENOENT", "EIO", "EBADF", "EINVAL", "EROFS", "ENOSYS", "ESTALE")
)


class Refused(Exception):
    """A request is refused with `errno`, a number of Linux."""

    def __init__(self, errno_: int) -> None:
        super().__init__(errno_)
        self.errno = errno_


def linux_errno(error: OSError) -> int:
    """What the guest is told of an error of this computer."""
    name = errno.errorcode.get(error.errno or 0)
    return _LINUX.get(name, _LINUX["EIO"]) if name else _LINUX["EIO"]

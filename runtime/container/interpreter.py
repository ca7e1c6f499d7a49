"""Keeping containers from writing to the interpreter that starts them (CVE-2019-5736).

An image whose program is a link to /proc/self/exe, or a script that begins `#!/proc/self/exe`, has the kernel execute
our own binary inside the container, and the container then holds a reference to the host's file. If that file lies on
a mount that is read-only, whichever path it is reached by, the reference is harmless. A detached mount, in nobody's
mount namespace, cannot be made writable again from anywhere.
"""

import errno
import os
import sys

from runtime.linux import mounts

_ATTEMPTED = "WHERRY_INTERPRETER_SEALED"
_EXECUTABLE = "/proc/self/exe"


def is_sealed() -> bool:
    """Whether the running interpreter's file cannot be written through /proc/self/exe."""
    return bool(os.statvfs(_EXECUTABLE).f_flag & os.ST_RDONLY)


def seal() -> None:
    """Return once the interpreter is sealed, if need be by executing this command again from a read-only mount.

    For the start of a program, while there is nothing to lose. Raises OSError if the kernel refuses.
    """
    if is_sealed():
        os.environ.pop(_ATTEMPTED, None)
        return
    if os.environ.get(_ATTEMPTED):
        raise OSError(errno.EROFS, "the interpreter cannot be put on a read-only mount", sys.executable)
    tree = mounts.open_tree(os.readlink(_EXECUTABLE))
    mounts.mount_setattr(tree, set_=mounts.MOUNT_ATTR_RDONLY)
    sys.stdout.flush()
    # argv[0] stays the path: the interpreter finds its library (and virtual environment) by it.
    os.execve(
        f"/proc/self/fd/{tree}",
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, _ATTEMPTED: "1"},
    )

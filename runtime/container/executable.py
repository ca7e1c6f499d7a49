"""Finding the program, as runc does (Go's exec.LookPath): its words are what Docker's users and scripts know."""

import errno
import os
import stat

from runtime.container.op import Refused


def find_executable(name: str, path: str) -> str:
    """The file to execute for `name`, searched in `path` (the container's $PATH) if it has no slash.

    Call it as the user, in the directory and with the capabilities the program will have. Raises Refused with
    ENOENT, EACCES or EISDIR.
    """
    if "/" in name:
        code = _problem(name)
        if code == 0:
            return name
        if code == errno.EACCES:
            raise Refused(code, f'exec: "{name}": permission denied')
        if code == errno.EISDIR:
            raise Refused(code, f'exec: "{name}": is a directory')
        words = os.strerror(code)
        raise Refused(code, f'exec: "{name}": stat {name}: {words[:1].lower()}{words[1:]}')
    if name:
        for directory in path.split(":"):
            candidate = os.path.join(directory or ".", name)
            if _problem(candidate) == 0:
                return candidate
    raise Refused(errno.ENOENT, f'exec: "{name}": executable file not found in $PATH')


def _problem(path: str) -> int:
    """0 if `path` can be executed, else the errno that says why not."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.ENOENT
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    return 0 if os.access(path, os.X_OK, effective_ids=True) else errno.EACCES

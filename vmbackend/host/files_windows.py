"""Files of a share on Windows, where directories are told by their paths.

Characters that Windows refuses in names are kept in Unicode's private use area, as WSL and Cygwin do.
"""

import errno
import os
import shutil
import stat
import sys
from pathlib import Path

assert sys.platform == "win32"

Directory = str

NEEDS_DRIVE_LETTERS = True
SHOWN_OWNER: tuple[int, int] | None = (1000, 1000)

_REFUSED = {ord(character): chr(0xF000 + ord(character)) for character in '<>:"|?*\\'}
_RESTORED = {ord(kept): chr(refused) for refused, kept in _REFUSED.items()}
_NOTE_STREAM = "wherry.owner"


def open_root(path: Path) -> Directory:
    """Raises OSError."""
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(path))
    return str(path)


def open_directory(directory: Directory, name: str) -> Directory:
    path = os.path.join(directory, name)
    facts = os.lstat(path)
    # A junction is no directory of the share either.
    if facts.st_file_attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT:
        raise OSError(errno.ELOOP, "leads out of the directory", path)
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory", path)
    return path


def close_directory(directory: Directory) -> None:
    pass


def directory_stat(directory: Directory) -> os.stat_result:
    return os.lstat(directory)


def at(directory: Directory, name: str) -> tuple[str, int | None]:
    return os.path.join(directory, name), None


def native_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape").translate(_REFUSED)


def wire_name(name: str) -> bytes:
    return name.translate(_RESTORED).encode("utf-8", "surrogateescape")


def shown_mode(stat_result: os.stat_result) -> int:
    """Everything may be executed: Windows has no such bit, and scripts must run."""
    return stat.S_IFMT(stat_result.st_mode) | 0o755


def change_mode(directory: Directory, name: str, mode: int) -> None:
    """Nothing: a note keeps it."""


def make_special(directory: Directory, name: str, mode: int) -> None:
    raise PermissionError(errno.EPERM, "Windows has no pipes or sockets in directories")


def read_note(directory: Directory, name: str) -> bytes | None:
    """The note kept in a named stream of the file. Raises OSError when the file cannot have one."""
    try:
        with open(f"{os.path.join(directory, name)}:{_NOTE_STREAM}", "rb") as stream:  # noqa: PTH123
            return stream.read()
    except FileNotFoundError:
        return None


def write_note(directory: Directory, name: str, note: bytes | None) -> None:
    path = f"{os.path.join(directory, name)}:{_NOTE_STREAM}"
    if note is None:
        try:
            os.remove(path)
        except FileNotFoundError:
            pass
        return
    with open(path, "wb") as stream:  # noqa: PTH123
        stream.write(note)


def room(directory: Directory) -> tuple[int, int, int, int, int, int]:
    usage = shutil.disk_usage(directory)
    return usage.total // 4096, usage.free // 4096, usage.free // 4096, 0, 0, 4096


def allow_many_open_files() -> None:
    pass

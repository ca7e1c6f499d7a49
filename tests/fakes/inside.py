"""What a process sees of the container it is in, as one JSON line: run inside, by the host's own Python, on any engine.

`python3 inside.py '{"name": number, ...}'`: these system calls are tried, each with arguments of -1.
"""

import ctypes
import errno
import json
import os
import signal
import stat
import sys
from pathlib import Path

# Inside these, a value belongs to a namespace of the container's own.
OWN_SYSCTLS = ("net", "kernel/msg", "kernel/sem", "kernel/shm", "fs/mqueue", "user")
# With a plain argument: (number on x86-64, arguments).
CALLS = {
    "socket AF_VSOCK": (41, (40, 1, 0)),
    "socket AF_ALG": (41, (38, 5, 0)),
    "personality PER_LINUX32": (135, (8,)),
    "personality ADDR_NO_RANDOMIZE": (135, (0x0040000,)),
    "personality UNAME26": (135, (0x0020000,)),
    "clone CLONE_NEWUSER": (56, (0x10000011, 0, 0, 0, 0)),
    "clone CLONE_NEWNS": (56, (0x00020011, 0, 0, 0, 0)),
    "unshare CLONE_NEWUSER": (272, (0x10000000,)),
    "unshare CLONE_NEWCGROUP": (272, (0x02000000,)),
    "ioctl TIOCSTI": (16, (0, 0x5412, 0)),
}

_libc = ctypes.CDLL(None, use_errno=True)


def _called(number, arguments):
    """The name of the error, "done", or "no answer" of a system call made by a process of its own."""
    # Some wait for ever; on a busy machine all others may take a while too.
    return _answer(number, arguments, 0.05) or _answer(number, arguments, 5) or "no answer"


def _answer(number, arguments, patience_s):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_REAL, patience_s)
        ctypes.set_errno(0)
        result = _libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments))
        code = ctypes.get_errno()
        os.write(writer, ("done" if result >= 0 else errno.errorcode.get(code, str(code))).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read(32).decode()
    os.waitpid(pid, 0)
    return answer


def _status():
    with Path("/proc/self/status").open() as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters")
    return {name: fields[name] for name in (*wanted, "Uid", "Gid", "Groups") if name in fields}


def _mounts():
    found = {}
    with Path("/proc/self/mountinfo").open() as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            fields = before.split()
            found[fields[4]] = {
                "type": after.split()[0],
                "options": fields[5].split(","),
                "propagation": fields[6:],
            }
    return found


def _devices():
    found = {}
    for name in sorted(os.listdir("/dev")):
        info = os.lstat(f"/dev/{name}")
        kind = stat.S_IFMT(info.st_mode)
        mode = "" if stat.S_ISLNK(info.st_mode) else oct(info.st_mode & 0o7777)
        numbers = [os.major(info.st_rdev), os.minor(info.st_rdev)]
        found[name] = [kind, mode, numbers, info.st_uid, info.st_gid]
    return found


def _tree(top):
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if not (top == "/proc" and directory == "/proc" and name[:1].isdigit())]
        yield directory
        yield from (os.path.join(directory, name) for name in files)


def _writable(top):
    """What could be written to, by permission and mount: /proc/self and the like are links, and not followed."""
    return sorted(path for path in _tree(top) if not os.path.islink(path) and os.access(path, os.W_OK))


def _sysctls():
    found = {}
    for path in _tree("/proc/sys"):
        name = path.removeprefix("/proc/sys/")
        if name.startswith(OWN_SYSCTLS) and os.path.isfile(path):
            try:
                found[name] = Path(path).read_text().strip()
            except OSError:
                continue  # some can only be written to
    return found


def _read(path):
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def _keyring():
    """The description of the session keyring: KEYCTL_DESCRIBE of KEY_SPEC_SESSION_KEYRING."""
    text = ctypes.create_string_buffer(256)
    if _libc.syscall(250, ctypes.c_long(6), ctypes.c_long(-3), text, ctypes.c_long(256)) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return text.value.decode()


def main():
    tried = {name: (number, (-1,) * 6) for name, number in json.loads(sys.argv[1]).items()} | CALLS
    print(
        json.dumps(
            {
                "status": _status(),
                "mounts": _mounts(),
                "devices": _devices(),
                "sysctls": _sysctls(),
                "writable": _writable("/proc") + _writable("/sys"),
                "hidden": {name: _read(f"/proc/{name}") for name in ("keys", "timer_list", "interrupts")},
                "keyring": _keyring(),
                "maps": {name: _read(f"/proc/self/{name}").split() for name in ("uid_map", "gid_map", "setgroups")},
                "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
                "calls": {name: _called(*call) for name, call in tried.items()},
            }
        )
    )


if __name__ == "__main__":
    main()

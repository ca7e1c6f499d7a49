"""Executing a program without copying this process: clone(2) with CLONE_VM and CLONE_VFORK.

The child shares our memory while we wait, so no Python may run in it. The C library alone does: makecontext(3) strings
setsid(2), execve(2) and, should that fail, _exit(2) together, and the child is started with setcontext(3) on the first.
It costs a twentieth of a fork of the interpreter.
"""

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence

from runtime.linux.process import CLONE_PIDFD

_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000
_CLONE_PARENT = 0x00008000

_CONTEXT_BYTES = 8 << 10
"""More than a ucontext_t of any architecture: aarch64's has 4.5 KiB."""

_STACK_BYTES = 32 << 10

_libc = ctypes.CDLL(None, use_errno=True)
SUPPORTED = hasattr(_libc, "makecontext")
"""musl has none."""


class _Context(ctypes.Structure):
    """The beginning of a ucontext_t, which is the same everywhere: the rest is getcontext(3)'s."""

    _fields_ = [
        ("flags", ctypes.c_ulong),
        ("link", ctypes.c_void_p),
        ("stack", ctypes.c_void_p),
        ("stack_flags", ctypes.c_int),
        ("stack_size", ctypes.c_size_t),
    ]


class Spawner:
    """What `spawn` needs and can use again: for one thread."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(3 * (_CONTEXT_BYTES + _STACK_BYTES) + _STACK_BYTES + 64)
        self._base = (ctypes.addressof(self._memory) + 63) & ~63

    def spawn(self, path: str, args: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int]:
        """Execute `path` in a child of our parent, in a session of its own; return its pid and a pidfd.

        Everything else it inherits from the calling thread. Raises the OSError of clone(2) or execve(2).
        """
        program = ctypes.create_string_buffer(os.fsencode(path))  # it and the arrays must live until execve
        argv = _strings(args)
        envp = _strings([f"{name}={value}" for name, value in environment.items()])
        failing = self._context(2, None, _libc._exit, 127)
        executing = self._context(1, failing, _libc.execve, program, argv, envp)
        first = self._context(0, executing, _libc.setsid)
        stack_top = self._base + 3 * (_CONTEXT_BYTES + _STACK_BYTES) + _STACK_BYTES
        pidfd = ctypes.c_int(-1)
        flags = _CLONE_VM | _CLONE_VFORK | _CLONE_PARENT | CLONE_PIDFD | signal.SIGCHLD.value
        ctypes.set_errno(0)
        pid: int = _libc.clone(
            _libc.setcontext, ctypes.c_void_p(stack_top), flags, ctypes.c_void_p(first), ctypes.byref(pidfd)
        )
        if code := ctypes.get_errno():  # of execve too: the child had this thread's errno
            if pid > 0:
                os.close(pidfd.value)
            raise OSError(code, os.strerror(code), path)
        return pid, pidfd.value

    def _context(self, number: int, link: int | None, function: object, *arguments: object) -> int:
        address = self._base + number * (_CONTEXT_BYTES + _STACK_BYTES)
        _libc.getcontext(ctypes.c_void_p(address))
        context = _Context.from_address(address)
        context.link = link
        context.stack = address + _CONTEXT_BYTES
        context.stack_size = _STACK_BYTES
        _libc.makecontext(ctypes.c_void_p(address), function, len(arguments), *arguments)
        return address


def _strings(words: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)

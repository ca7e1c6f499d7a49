"""Session keyrings (keyctl(2))."""

from runtime.linux import syscalls
from runtime.linux.libc import syscall

KEYCTL_JOIN_SESSION_KEYRING = 1


def join_session_keyring(name: str) -> int:
    """Give the calling process a session keyring of its own called `name`; return its serial number."""
    return syscall(syscalls.KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, name.encode())

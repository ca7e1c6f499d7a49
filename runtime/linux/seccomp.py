"""Seccomp filters: an OCI `linux.seccomp` object → cBPF bytes → seccomp(2).

Compiling uses libseccomp; installing does not, so that a process that only installs never maps the library. A
compiled filter depends on the profile, the machine and libseccomp's version; the cache names the first two,
so a cache directory should not outlive an upgrade (the run directory does not).

Raises OSError only: EINVAL with the offending word as `filename` for a profile that makes no sense, ELIBACC
when libseccomp is missing, otherwise the errno of libseccomp or the kernel. Sources: OCI runtime-spec
config-linux.md "Seccomp", seccomp_rule_add(3), seccomp_export_bpf(3), seccomp(2), linux/seccomp.h,
linux/filter.h.
"""

import ctypes
import errno
import functools
import json
import os
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runtime.linux.libc import syscall

_SECCOMP_SET_MODE_FILTER = 1
_NR_SECCOMP = 317 if os.uname().machine == "x86_64" else 277  # asm-generic

# seccomp.h. ERRNO and TRACE carry 16 bits of data. SCMP_ACT_NOTIFY needs a supervisor, which Wherry has none of.
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_ACTIONS_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PERMISSIVE_ACTIONS = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
}

_SCMP_FLTATR_CTL_OPTIMIZE = 8
_OPTIMIZE_BINARY_TREE = 2
_NR_SCMP_ERROR = -1

_ARCH_X86_64 = 0xC000003E
_ARCH_X32 = 0x4000003E  # libseccomp's token; the kernel reports AUDIT_ARCH_X86_64 with bit 30 in the number
_X32_SYSCALL_BIT = 0x40000000


class _ArgCompare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


class _SockFprog(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(bpf: bytes, flags: int = 0) -> None:
    """Install a filter on the calling thread, which needs no_new_privs or CAP_SYS_ADMIN, else EACCES."""
    program = _SockFprog(len(bpf) // 8, bpf)
    syscall(_NR_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program))


def filter_flags(seccomp: Mapping[str, Any]) -> int:
    """Return `linux.seccomp.flags` as seccomp(2) takes them.

    Without the key it is SPEC_ALLOW, as in runc: containers are no more exposed to speculation than the
    host's own processes, and the mitigation costs up to a third of their speed.
    """
    names = seccomp.get("flags")
    if names is None:
        return FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    return functools.reduce(lambda flags, name: flags | _lookup(FLAGS, name), names, 0)


_compiled: dict[bytes, bytes] = {}


def compile_filter(seccomp: Mapping[str, Any], cache_dir: Path | None = None) -> bytes:
    """Compile an OCI LinuxSeccomp object to cBPF: struct sock_filter, 8 bytes each, for `install`.

    System calls libseccomp does not know are left out, as runc does. Those newer than the newest the profile
    names answer ENOSYS rather than the default action, so that a C library falls back instead of failing.
    With `cache_dir` (must exist) the result is also kept there between processes.
    """
    content = json.dumps(seccomp, sort_keys=True, separators=(",", ":")).encode()
    if content in _compiled:
        return _compiled[content]
    bpf = _compile(seccomp) if cache_dir is None else _compile_through(cache_dir, content, seccomp)
    _compiled[content] = bpf
    return bpf


def _compile_through(cache_dir: Path, content: bytes, seccomp: Mapping[str, Any]) -> bytes:
    import hashlib  # maps OpenSSL, 4 MB: not for the launcher, which installs and never compiles

    digest = hashlib.sha256(os.uname().machine.encode() + content).hexdigest()
    path = cache_dir / f"seccomp-{digest}.bpf"
    try:
        cached = path.read_bytes()
    except FileNotFoundError:
        cached = b""
    if cached:
        return cached
    bpf = _compile(seccomp)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(bpf)
    temporary.replace(path)
    return bpf


class _Rule(NamedTuple):
    action: int
    name: str
    conditions: tuple[_ArgCompare, ...]


def _compile(seccomp: Mapping[str, Any]) -> bytes:
    # Everything that can be wrong with the profile is found before libseccomp is asked for anything.
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    entries = seccomp.get("syscalls") or ()
    rules = [rule for entry in entries for rule in _rules(entry) if rule.action != default]
    library = _library()
    architectures = [_architecture(library, name) for name in seccomp.get("architectures") or ()]
    body = _export(library, default, architectures, rules)
    if seccomp["defaultAction"] in _PERMISSIVE_ACTIONS or seccomp.get("defaultErrnoRet") == errno.ENOSYS:
        return body
    names = [name for entry in entries for name in entry["names"]]
    native = library.seccomp_arch_native()
    newest = {token: _newest(library, token, names) for token in (native, *architectures)}
    return enosys_prologue({token: number for token, number in newest.items() if number >= 0}) + body


def _rules(entry: Mapping[str, Any]) -> Iterable[_Rule]:
    action = _action(entry["action"], entry.get("errnoRet"))
    conditions = tuple(
        _ArgCompare(arg["index"], _lookup(OPERATORS, arg["op"]), arg["value"], arg.get("valueTwo", 0))
        for arg in entry.get("args") or ()
    )
    # libseccomp takes one comparison per argument in a rule. Several on the same argument are alternatives:
    # what runc has always made of them, and profiles rely on it.
    repeated = any(count > 1 for count in Counter(condition.arg for condition in conditions).values())
    alternatives = [(condition,) for condition in conditions] if repeated else [conditions]
    for name in entry["names"]:
        for alternative in alternatives:
            yield _Rule(action, name, alternative)


def _export(library: ctypes.CDLL, default: int, architectures: Sequence[int], rules: Iterable[_Rule]) -> bytes:
    context = library.seccomp_init(default)
    if not context:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), f"seccomp default action {default:#x}")
    try:
        for architecture in architectures:
            result = library.seccomp_arch_add(context, architecture)
            if result != -errno.EEXIST:  # the native one is there from the start
                _check(result, f"seccomp architecture {architecture:#x}")
        # Hundreds of system calls: a binary search instead of a walk down the list on each one.
        _check(library.seccomp_attr_set(context, _SCMP_FLTATR_CTL_OPTIMIZE, _OPTIMIZE_BINARY_TREE), "optimize")
        for action, name, conditions in rules:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == _NR_SCMP_ERROR:
                continue
            array = (_ArgCompare * len(conditions))(*conditions)
            _check(library.seccomp_rule_add_array(context, action, number, len(conditions), array), name)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _exported(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp")
    try:
        _check(library.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


_LD_W_ABS = 0x20
_JA = 0x05
_JEQ_K = 0x15
_JGT_K = 0x25
_JGE_K = 0x35
_RET_K = 0x06
_DATA_NR = 0  # struct seccomp_data
_DATA_ARCH = 4


def enosys_prologue(newest: Mapping[int, int]) -> bytes:
    """Return instructions to put before a filter: numbers above `newest` answer ENOSYS.

    `newest` maps libseccomp's architecture tokens to the highest number the profile knows there. Other
    architectures, and numbers at or below it, reach the filter that follows. Same effect as runc's patchbpf.
    """
    abis: dict[int, dict[int, int]] = {}
    for token, number in newest.items():
        kernel_token = _ARCH_X86_64 if token == _ARCH_X32 else token
        abis.setdefault(kernel_token, {})[token] = number

    program: list[bytes] = []  # written backwards: its length is then the distance to the filter
    for kernel_token, numbers in abis.items():
        start = len(program)
        if kernel_token == _ARCH_X86_64:
            program += _above_is_enosys(numbers.get(_ARCH_X32), len(program))
            x32_check = len(program)
            program += _above_is_enosys(numbers.get(_ARCH_X86_64), len(program))
            program.append(_instruction(_JGE_K, _X32_SYSCALL_BIT, jt=len(program) - x32_check))
        else:
            program += _above_is_enosys(numbers[kernel_token], len(program))
        program.append(_instruction(_LD_W_ABS, _DATA_NR))
        program.append(_instruction(_JEQ_K, kernel_token, jf=len(program) - start))
    program.append(_instruction(_LD_W_ABS, _DATA_ARCH))
    return b"".join(reversed(program))


def _above_is_enosys(newest: int | None, distance: int) -> list[bytes]:
    """Backwards: return ENOSYS above `newest`, else jump over the next `distance` instructions."""
    jump = _instruction(_JA, distance)
    if newest is None:
        return [jump]
    refuse = _instruction(_RET_K, ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS)
    return [jump, refuse, _instruction(_JGT_K, newest, jf=1)]


def _instruction(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def _newest(library: ctypes.CDLL, architecture: int, names: Iterable[str]) -> int:
    resolve = library.seccomp_syscall_resolve_name_arch
    # Names this architecture lacks resolve to negative pseudo-numbers.
    return max((resolve(architecture, name.encode()) for name in names), default=_NR_SCMP_ERROR)


def _action(name: str, data: int | None) -> int:
    action = _lookup(ACTIONS, name)
    if name in _ACTIONS_WITH_DATA:
        action |= (errno.EPERM if data is None else data) & 0xFFFF
    return action


def _architecture(library: ctypes.CDLL, name: str) -> int:
    token: int = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    if token == 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    return token


def _lookup(table: Mapping[str, int], name: str) -> int:
    try:
        return table[name]
    except KeyError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name) from None


def _check(result: int, subject: str) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result), subject)


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise OSError(errno.ELIBACC, os.strerror(errno.ELIBACC), "libseccomp.so.2") from None
    context = ctypes.c_void_p
    library.seccomp_init.restype = context
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (context,)
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_arch_add.argtypes = (context, ctypes.c_uint32)
    library.seccomp_attr_set.argtypes = (context, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    library.seccomp_rule_add_array.argtypes = (
        context,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_ArgCompare),
    )
    library.seccomp_export_bpf.argtypes = (context, ctypes.c_int)
    return library

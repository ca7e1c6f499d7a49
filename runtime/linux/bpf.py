"""Device access control of cgroup v2: rules → an eBPF program → attached to a cgroup.

The kernel runs the program on every open and mknod of a device by a process of the cgroup; 0 refuses (EPERM).
Raises OSError only. Sources: bpf(2), linux/bpf.h (struct bpf_cgroup_dev_ctx, BPF_PROG_TYPE_CGROUP_DEVICE),
Documentation/bpf/standardization/instruction-set.rst.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from runtime.linux.libc import syscall

_NR_BPF = 321 if os.uname().machine == "x86_64" else 280  # asm-generic

_BPF_PROG_LOAD = 5
_BPF_PROG_ATTACH = 8
_BPF_PROG_DETACH = 9
_BPF_PROG_GET_FD_BY_ID = 13
_BPF_PROG_QUERY = 16

_BPF_PROG_TYPE_CGROUP_DEVICE = 15
_BPF_CGROUP_DEVICE = 6
_BPF_F_ALLOW_MULTI = 2
_MAX_ATTACHED = 64  # BPF_CGROUP_MAX_PROGS

# enum of linux/bpf.h: BPF_DEVCG_DEV_* and BPF_DEVCG_ACC_*
DEVICE_TYPES = {"b": 1, "c": 2}
ACCESS_BITS = {"m": 1, "r": 2, "w": 4}
_ALL_ACCESS = 7


class DeviceRule(NamedTuple):
    """One rule; None stands for any. `access` is some of "rwm"."""

    allow: bool
    type: str | None
    major: int | None
    minor: int | None
    access: str


# Registers. R1 holds the context on entry; R0 what is returned.
_R0, _R1, _R2, _R3, _R4, _R5, _R6 = range(7)
_TYPE, _ACCESS, _MAJOR, _MINOR, _SCRATCH = _R2, _R3, _R4, _R5, _R6

# Opcodes: class | source | operation.
_LDX_W = 0x61
_MOV32_IMM = 0xB4
_MOV32_REG = 0xBC
_AND32_IMM = 0x54
_RSH32_IMM = 0x74
_JNE32_IMM = 0x56
_JEQ32_IMM = 0x16
_EXIT = 0x95


def device_program(rules: Sequence[DeviceRule]) -> bytes:
    """Assemble the program for `rules`: struct bpf_insn, 8 bytes each.

    Each kind of access that is asked for is decided by the last rule that speaks of it for this device, and
    what no rule speaks of is refused. So "allow r" and "allow w" together allow opening for both, and "deny
    w" refuses it: the outcome of the v1 controller. (runc and crun compare whole access masks and get
    neither right.)
    """
    program = [
        # The low half of the first word is the device's type, the high half the access.
        _instruction(_LDX_W, _TYPE, _R1, offset=0),
        _instruction(_MOV32_REG, _ACCESS, _TYPE),
        _instruction(_AND32_IMM, _TYPE, imm=0xFFFF),
        _instruction(_RSH32_IMM, _ACCESS, imm=16),
        _instruction(_LDX_W, _MAJOR, _R1, offset=4),
        _instruction(_LDX_W, _MINOR, _R1, offset=8),
    ]
    for rule in reversed(rules):
        program += _rule(rule)
        if _decides_everything(rule):
            return b"".join(program)  # the verifier rejects code that cannot be reached
    return b"".join((*program, *_return(0)))


def _decides_everything(rule: DeviceRule) -> bool:
    return rule[1:4] == (None, None, None) and _bits(rule.access) == _ALL_ACCESS


def _bits(access: str) -> int:
    return sum(ACCESS_BITS[letter] for letter in set(access))


def _rule(rule: DeviceRule) -> list[bytes]:
    """Return the code of one rule; it clears from _ACCESS what it has allowed, and falls through."""
    access = _bits(rule.access)
    conditions = [
        (_TYPE, None if rule.type is None else DEVICE_TYPES[rule.type]),
        (_MAJOR, rule.major),
        (_MINOR, rule.minor),
    ]
    if access == _ALL_ACCESS:
        verdict = _return(int(rule.allow))
    elif rule.allow:
        allowed = _return(1)
        verdict = [
            _instruction(_AND32_IMM, _ACCESS, imm=_ALL_ACCESS & ~access),
            _instruction(_JNE32_IMM, _ACCESS, offset=len(allowed), imm=0),
            *allowed,
        ]
    else:
        refused = _return(0)
        verdict = [
            _instruction(_MOV32_REG, _SCRATCH, _ACCESS),
            _instruction(_AND32_IMM, _SCRATCH, imm=access),
            _instruction(_JEQ32_IMM, _SCRATCH, offset=len(refused), imm=0),
            *refused,
        ]
    code = verdict
    for register, wanted in reversed(conditions):
        if wanted is not None:
            code = [_instruction(_JNE32_IMM, register, offset=len(code), imm=wanted), *code]
    return code


def _return(value: int) -> list[bytes]:
    return [_instruction(_MOV32_IMM, _R0, imm=value), _instruction(_EXIT)]


def _instruction(opcode: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhI", opcode, src << 4 | dst, offset, imm)


class _LoadAttr(ctypes.Structure):
    """The start of union bpf_attr for BPF_PROG_LOAD."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
    ]


class _AttachAttr(ctypes.Structure):
    """union bpf_attr for BPF_PROG_ATTACH and BPF_PROG_DETACH."""

    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
    ]


class _QueryAttr(ctypes.Structure):
    """union bpf_attr for BPF_PROG_QUERY."""

    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
    ]


class _IdAttr(ctypes.Structure):
    """union bpf_attr for BPF_PROG_GET_FD_BY_ID."""

    _fields_ = [("prog_id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32)]


def load_device_program(program: bytes) -> int:
    """Load an assembled program; returns its close-on-exec fd. Needs CAP_BPF and CAP_NET_ADMIN."""
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attr = _LoadAttr(
        prog_type=_BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(program) // 8,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(license_),
        prog_name=b"wherry_devices",
    )
    return _bpf(_BPF_PROG_LOAD, attr)


def attach_device_program(cgroup_fd: int, program_fd: int) -> None:
    """Make `program_fd` the one device program of the cgroup; the cgroup keeps it, the fd may be closed.

    The new one is attached before the old ones go, so a change never leaves a moment without rules.
    """
    old = attached_device_programs(cgroup_fd)
    _bpf(
        _BPF_PROG_ATTACH,
        _AttachAttr(cgroup_fd, program_fd, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI),
    )
    for program_id in old:
        old_fd = _bpf(_BPF_PROG_GET_FD_BY_ID, _IdAttr(prog_id=program_id))
        try:
            _bpf(_BPF_PROG_DETACH, _AttachAttr(cgroup_fd, old_fd, _BPF_CGROUP_DEVICE))
        finally:
            os.close(old_fd)


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """Return the ids of the device programs attached to the cgroup itself (not to its parents)."""
    ids = (ctypes.c_uint32 * _MAX_ATTACHED)()
    attr = _QueryAttr(
        target_fd=cgroup_fd,
        attach_type=_BPF_CGROUP_DEVICE,
        prog_ids=ctypes.addressof(ids),
        prog_cnt=_MAX_ATTACHED,
    )
    _bpf(_BPF_PROG_QUERY, attr)
    return list(ids[: attr.prog_cnt])


def _bpf(command: int, attr: ctypes.Structure) -> int:
    return syscall(_NR_BPF, command, ctypes.byref(attr), ctypes.sizeof(attr))

"""Numbers of the system calls the C library does not wrap (asm/unistd.h).

From 424 on the numbers are the same on every architecture; older ones are looked up by machine.
"""

import os

_X86_64 = {
    "pivot_root": 155,
    "keyctl": 250,
    "clone": 56,
    "syncfs": 306,
    "rt_sigaction": 13,
    "setgroups": 116,
    "setresgid": 119,
    "setresuid": 117,
}
# asm-generic: aarch64, riscv64, loongarch64
_GENERIC = {
    "pivot_root": 41,
    "keyctl": 219,
    "clone": 220,
    "syncfs": 267,
    "rt_sigaction": 134,
    "setgroups": 159,
    "setresgid": 149,
    "setresuid": 147,
}
_BY_MACHINE = _X86_64 if os.uname().machine == "x86_64" else _GENERIC

PIVOT_ROOT = _BY_MACHINE["pivot_root"]
KEYCTL = _BY_MACHINE["keyctl"]
CLONE = _BY_MACHINE["clone"]
SYNCFS = _BY_MACHINE["syncfs"]
RT_SIGACTION = _BY_MACHINE["rt_sigaction"]
SETGROUPS = _BY_MACHINE["setgroups"]
SETRESGID = _BY_MACHINE["setresgid"]
SETRESUID = _BY_MACHINE["setresuid"]
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
CLONE3 = 435
CLOSE_RANGE = 436
OPENAT2 = 437
MOUNT_SETATTR = 442

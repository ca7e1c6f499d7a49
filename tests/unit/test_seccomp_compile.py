"""Compiled filters, run by a small interpreter of the classic BPF that seccomp allows."""

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import seccomp
from runtime.linux.seccomp import FLAGS, compile_filter, enosys_prologue, filter_flags
from runtime.oci.defaults import DEFAULT_CAPABILITIES, default_seccomp

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers are those of x86_64")

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32_BIT = 0x40000000
READ, CLONE, SOCKET, PERSONALITY, MOUNT, CLONE3 = 0, 56, 41, 135, 165, 435

ALLOW, LOG, TRACE, KILL_PROCESS, KILL_THREAD = 0x7FFF0000, 0x7FFC0000, 0x7FF00000, 0x80000000, 0


def error(number: int) -> int:
    return 0x00050000 | number


def verdict(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """What the kernel would do with this system call."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *args, *(0,) * (6 - len(args)))
    accumulator = 0
    position = 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("=HBBI", program, position * 8)
        position += 1
        match code:
            case 0x20:  # ld [k]
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:  # and k
                accumulator &= k
            case 0x05:  # ja
                position += k
            case 0x15:  # jeq
                position += if_true if accumulator == k else if_false
            case 0x25:  # jgt
                position += if_true if accumulator > k else if_false
            case 0x35:  # jge
                position += if_true if accumulator >= k else if_false
            case 0x06:  # ret
                return k
            case _:
                raise AssertionError(f"instruction {code:#x}")


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": list(rules), **more}


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


@pytest.fixture(scope="module")
def default() -> bytes:
    return compile_filter(default_seccomp(DEFAULT_CAPABILITIES))


@pytest.mark.parametrize(
    ("number", "args", "expected"),
    [
        (READ, (), ALLOW),
        (MOUNT, (), error(errno.EPERM)),
        (CLONE3, (), error(errno.ENOSYS)),
        (CLONE, (0x00000011,), ALLOW),
        (CLONE, (0x10000000,), error(errno.EPERM)),  # CLONE_NEWUSER
        (SOCKET, (2,), ALLOW),
        (SOCKET, (40,), error(errno.EPERM)),  # AF_VSOCK
        (PERSONALITY, (0xFFFFFFFF,), ALLOW),
        (PERSONALITY, (0x0040000,), error(errno.EPERM)),  # ADDR_NO_RANDOMIZE
        (5000, (), error(errno.ENOSYS)),
        (X32_BIT | READ, (), ALLOW),  # x32 is among the profile's architectures
        (X32_BIT | 5000, (), error(errno.ENOSYS)),
    ],
)
def test_dockers_default_profile(default: bytes, number: int, args: tuple[int, ...], expected: int) -> None:
    assert verdict(default, number, *args) == expected


def test_dockers_default_profile_for_32_bit_programs(default: bytes) -> None:
    assert verdict(default, 3, arch=X86) == ALLOW  # read
    assert verdict(default, 21, arch=X86) == error(errno.EPERM)  # mount
    assert verdict(default, 5000, arch=X86) == error(errno.ENOSYS)


def test_a_foreign_architecture_is_killed(default: bytes) -> None:
    assert verdict(default, READ, arch=AARCH64) == KILL_THREAD
    assert verdict(default, 5000, arch=AARCH64) == KILL_THREAD


def test_capabilities_open_the_default_profile() -> None:
    opened = compile_filter(default_seccomp([*DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN"]))
    assert verdict(opened, MOUNT) == verdict(opened, CLONE3) == verdict(opened, CLONE, 0x10000000) == ALLOW


def test_errno_of_the_default_action_and_of_a_rule() -> None:
    program = compile_filter(
        profile(
            rule("read"),
            rule("clone3", action="SCMP_ACT_ERRNO", errnoRet=errno.EACCES),
            defaultErrnoRet=errno.EXDEV,
        )
    )
    assert verdict(program, READ) == ALLOW
    assert verdict(program, CLONE3) == error(errno.EACCES)
    assert verdict(program, MOUNT) == error(errno.EXDEV)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("SCMP_ACT_LOG", LOG),
        ("SCMP_ACT_TRACE", TRACE | errno.EPERM),
        ("SCMP_ACT_KILL", KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
        ("SCMP_ACT_ERRNO", error(errno.EPERM)),
    ],
)
def test_actions(action: str, expected: int) -> None:
    program = compile_filter(profile(rule("mount", action=action), default="SCMP_ACT_ALLOW"))
    assert verdict(program, MOUNT) == expected
    assert verdict(program, READ) == ALLOW
    assert verdict(program, 5000) == ALLOW


@pytest.mark.parametrize(
    ("op", "allowed", "refused"),
    [
        ("SCMP_CMP_EQ", [7], [6, 8, 7 | 1 << 32]),
        ("SCMP_CMP_NE", [6, 7 | 1 << 32], [7]),
        ("SCMP_CMP_LT", [6], [7, 1 << 40]),
        ("SCMP_CMP_LE", [6, 7], [8, 1 << 40]),
        ("SCMP_CMP_GT", [8, 1 << 40], [7]),
        ("SCMP_CMP_GE", [7, 1 << 40], [6]),
    ],
)
def test_comparisons_are_of_64_bits(op: str, allowed: list[int], refused: list[int]) -> None:
    program = compile_filter(profile(rule("personality", args=[{"index": 2, "value": 7, "op": op}])))
    assert [verdict(program, PERSONALITY, 0, 0, value) for value in allowed] == [ALLOW] * len(allowed)
    assert ALLOW not in [verdict(program, PERSONALITY, 0, 0, value) for value in refused]


def test_masked_comparison() -> None:
    arg = {"index": 0, "value": 0xF0, "valueTwo": 0x30, "op": "SCMP_CMP_MASKED_EQ"}
    program = compile_filter(profile(rule("clone", args=[arg])))
    assert verdict(program, CLONE, 0x35) == ALLOW
    assert verdict(program, CLONE, 0x45) == error(errno.EPERM)


def test_comparisons_of_different_arguments_must_all_hold() -> None:
    args = [{"index": index, "value": index, "op": "SCMP_CMP_EQ"} for index in (0, 1)]
    program = compile_filter(profile(rule("personality", args=args)))
    assert verdict(program, PERSONALITY, 0, 1) == ALLOW
    assert verdict(program, PERSONALITY, 0, 0) == error(errno.EPERM)


def test_comparisons_of_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (3, 5)]
    program = compile_filter(profile(rule("personality", args=args)))
    assert [verdict(program, PERSONALITY, value) == ALLOW for value in (3, 4, 5)] == [True, False, True]


def test_unknown_system_calls_are_left_out() -> None:
    assert verdict(compile_filter(profile(rule("read", "no_such_call"))), READ) == ALLOW


def test_a_profile_without_rules_refuses_everything() -> None:
    program = compile_filter(profile())
    assert verdict(program, READ) == verdict(program, 5000) == error(errno.EPERM)


def test_null_is_absent() -> None:
    program = compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "architectures": None, "syscalls": None})
    assert verdict(program, READ) == ALLOW


@pytest.mark.parametrize("native", [True, False])
def test_enosys_prologue_leaves_other_numbers_to_the_filter(native: bool) -> None:
    newest = {X86: 9, AARCH64: 7} | ({X86_64: 5} if native else {})
    program = enosys_prologue(newest) + struct.pack("=HBBI", 0x06, 0, 0, LOG)
    for arch, number in newest.items():
        assert verdict(program, number, arch=arch) == LOG
        assert verdict(program, number + 1, arch=arch) == error(errno.ENOSYS)
    assert verdict(program, X32_BIT | 100) == LOG  # no x32 in the profile: the filter kills it
    assert verdict(program, 100, arch=0x1234) == LOG


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (profile(default="SCMP_ACT_MAYBE"), "SCMP_ACT_MAYBE"),
        (profile(rule("read", action="SCMP_ACT_NOTIFY")), "SCMP_ACT_NOTIFY"),
        (profile(rule("read", args=[{"index": 0, "value": 0, "op": "SCMP_CMP_XX"}])), "SCMP_CMP_XX"),
        (profile(architectures=["SCMP_ARCH_PDP11"]), "SCMP_ARCH_PDP11"),
    ],
)
def test_what_makes_no_sense_is_named(bad: dict[str, Any], word: str) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        compile_filter(bad)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, word)


def test_flags() -> None:
    assert filter_flags(profile()) == FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"] == 4
    assert filter_flags(profile(flags=[])) == 0
    assert filter_flags(profile(flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"])) == 3
    with pytest.raises(OSError, match="NEW_LISTENER"):
        filter_flags(profile(flags=["SECCOMP_FILTER_FLAG_NEW_LISTENER"]))


def test_compiled_once_in_a_process_and_once_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = profile(rule("read"), comment="only of this test")
    first = compile_filter(wanted, tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == first

    def compile_again(_: object) -> bytes:
        raise AssertionError("compiled again")

    monkeypatch.setattr(seccomp, "_compile", compile_again)
    assert compile_filter(dict(reversed(wanted.items()))) == first
    monkeypatch.setattr(seccomp, "_compiled", {})
    assert compile_filter(wanted, tmp_path) == first
    with pytest.raises(AssertionError, match="compiled again"):
        compile_filter(profile(rule("write")), tmp_path)

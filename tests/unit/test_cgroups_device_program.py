"""The assembled device programs, run by a small interpreter of the few eBPF instructions they use."""

import struct

import pytest

from runtime.cgroups.resources import device_rules
from runtime.linux.bpf import ACCESS_BITS, DEVICE_TYPES, DeviceRule, device_program
from runtime.oci.defaults import DEFAULT_DEVICE_RULES

DENY_ALL = DeviceRule(False, None, None, None, "rwm")
ALLOW_ALL = DeviceRule(True, None, None, None, "rwm")


def allowed(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Run `program` as the kernel would for this request."""
    bits = sum(ACCESS_BITS[letter] for letter in access)
    context = struct.pack("=III", bits << 16 | DEVICE_TYPES[kind], major, minor)
    registers: dict[int, int] = {}
    position = 0
    while True:
        opcode, regs, offset, imm = struct.unpack_from("=BBhI", program, position * 8)
        dst, src = regs & 15, regs >> 4
        position += 1
        match opcode:
            case 0x61:  # ldxw
                assert src == 1
                (registers[dst],) = struct.unpack_from("=I", context, offset)
            case 0xB4:  # mov32 imm
                registers[dst] = imm
            case 0xBC:  # mov32 reg
                registers[dst] = registers[src]
            case 0x54:  # and32 imm
                registers[dst] &= imm
            case 0x74:  # rsh32 imm
                registers[dst] >>= imm
            case 0x56:  # jne32 imm
                position += offset if registers[dst] != imm else 0
            case 0x16:  # jeq32 imm
                position += offset if registers[dst] == imm else 0
            case 0x95:  # exit
                return bool(registers[0])
            case _:
                raise AssertionError(f"opcode {opcode:#x}")


def test_nothing_is_allowed_without_rules() -> None:
    assert not allowed(device_program([]), "c", 1, 3, "r")


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "expected"),
    [
        ("c", 1, 3, "rw", True),
        ("c", 1, 3, "m", False),
        ("c", 1, 3, "rwm", False),
        ("c", 1, 5, "r", False),
        ("b", 1, 3, "r", False),
        ("c", 2, 3, "r", False),
    ],
)
def test_an_allowed_device_is_allowed_what_the_rule_says(
    kind: str, major: int, minor: int, access: str, expected: bool
) -> None:
    program = device_program([DENY_ALL, DeviceRule(True, "c", 1, 3, "rw")])
    assert allowed(program, kind, major, minor, access) is expected


def test_rules_for_single_accesses_add_up() -> None:
    program = device_program([DENY_ALL, DeviceRule(True, "c", 1, 3, "r"), DeviceRule(True, "c", 1, None, "w")])
    assert allowed(program, "c", 1, 3, "rw")
    assert not allowed(program, "c", 1, 5, "rw")
    assert allowed(program, "c", 1, 5, "w")


def test_a_refused_access_refuses_requests_that_include_it() -> None:
    program = device_program([ALLOW_ALL, DeviceRule(False, "b", 8, None, "w")])
    assert allowed(program, "b", 8, 0, "r")
    assert not allowed(program, "b", 8, 0, "rw")
    assert allowed(program, "b", 7, 0, "rw")


def test_the_last_rule_wins() -> None:
    refused = DeviceRule(False, "c", 1, 3, "rwm")
    granted = DeviceRule(True, "c", 1, 3, "rwm")
    assert allowed(device_program([refused, granted]), "c", 1, 3, "r")
    assert not allowed(device_program([granted, refused]), "c", 1, 3, "r")


def test_a_rule_for_everything_ends_the_program() -> None:
    """Code that cannot be reached is what the verifier rejects."""
    with_more_before = device_program([DeviceRule(True, "c", 1, 3, "r"), ALLOW_ALL])
    assert with_more_before == device_program([ALLOW_ALL])
    assert allowed(with_more_before, "b", 259, 7, "rwm")


def test_every_container_has_the_default_devices() -> None:
    program = device_program(device_rules({"devices": list(DEFAULT_DEVICE_RULES)}))
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, 9)):
        assert allowed(program, "c", major, minor, "rw"), (major, minor)
    assert allowed(program, "b", 8, 0, "m")
    assert not allowed(program, "b", 8, 0, "r")
    assert not allowed(program, "c", 1, 1, "r")  # /dev/mem

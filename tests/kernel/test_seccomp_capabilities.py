"""Capability sets, in a forked child and in what it executes."""

import errno
import os
from pathlib import Path

import pytest
from cgroup_lab import errno_of, in_child

from runtime.linux import capabilities
from runtime.linux.capabilities import NAMES, bounding_drop, set_ambient, set_caps
from runtime.linux.process import PR_SET_KEEPCAPS, prctl

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")

KEPT = ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]


def sets() -> dict[str, list[str]]:
    return {name: sorted(members) for name, members in capabilities.get()._asdict().items()}


def status_of_an_executed_program() -> dict[str, int]:
    """CapInh, CapPrm, CapEff, CapBnd and CapAmb after execve(2)."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/status"])
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = [line.split(":\t") for line in pipe.read().splitlines()]
    os.wait()
    return {name: int(value, 16) for name, value in lines if name.startswith("Cap")}


def mask(names: list[str]) -> int:
    return sum(1 << NAMES[name] for name in names)


def test_names_are_those_of_the_kernel() -> None:
    assert len(NAMES) <= int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1
    assert NAMES["CAP_CHOWN"] == 0
    assert NAMES["CAP_SYS_ADMIN"] == 21
    assert list(NAMES.values()) == list(range(len(NAMES)))


def test_get_agrees_with_proc() -> None:
    held = {name: mask(members) for name, members in sets().items()}
    lines = [line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines()]
    status = {name: int(value, 16) for name, value in lines if name.startswith("Cap")}
    assert held["effective"] == status["CapEff"]
    assert held["permitted"] == status["CapPrm"]
    assert held["inheritable"] == status["CapInh"]
    assert held["bounding"] == status["CapBnd"]
    assert held["ambient"] == status["CapAmb"]


def test_all_sets() -> None:
    def change() -> dict[str, list[str]]:
        bounding_drop(KEPT)
        set_caps(KEPT[:1], KEPT, KEPT)
        set_ambient(KEPT[1:])
        return sets()

    assert in_child(change) == {
        "effective": KEPT[:1],
        "permitted": KEPT,
        "inheritable": KEPT,
        "bounding": KEPT,
        "ambient": KEPT[1:],
    }


def test_root_executes_with_the_bounding_set_at_most() -> None:
    def change() -> dict[str, int]:
        bounding_drop(KEPT)
        set_caps(KEPT, KEPT, [])
        return status_of_an_executed_program()

    status = in_child(change)
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"] == mask(KEPT)


def test_a_user_executes_with_the_ambient_set() -> None:
    def change() -> dict[str, int]:
        bounding_drop(KEPT)
        set_caps([*KEPT, "CAP_SETUID"], [*KEPT, "CAP_SETUID"], KEPT)
        # Becoming a user clears the ambient set, and the permitted one unless asked to keep it.
        prctl(PR_SET_KEEPCAPS, 1)
        os.setresuid(1000, 1000, 1000)
        set_caps(KEPT, KEPT, KEPT)
        set_ambient(KEPT[1:])
        return status_of_an_executed_program()

    status = in_child(change)
    assert status["CapPrm"] == status["CapEff"] == status["CapAmb"] == mask(KEPT[1:])


def test_keeping_what_is_not_there_is_no_error() -> None:
    def change() -> list[str]:
        bounding_drop(["CAP_CHOWN"])
        bounding_drop(KEPT)
        return sets()["bounding"]

    assert in_child(change) == ["CAP_CHOWN"]


def test_ambient_needs_inheritable() -> None:
    def change() -> int:
        set_caps(KEPT, KEPT, [])
        return errno_of(lambda: set_ambient(KEPT))

    assert in_child(change) == errno.EPERM


def test_what_is_lost_cannot_be_taken_back() -> None:
    def change() -> int:
        set_caps(KEPT, KEPT, KEPT)
        return errno_of(lambda: set_caps(["CAP_SYS_ADMIN"], ["CAP_SYS_ADMIN"], []))

    assert in_child(change) == errno.EPERM


def test_an_unknown_name_changes_nothing_and_is_named() -> None:
    before = capabilities.get()
    for call in (bounding_drop, set_ambient, lambda names: set_caps(names, names, names)):
        with pytest.raises(OSError, match="CAP_FLY") as caught:
            call(["CAP_CHOWN", "CAP_FLY"])
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "CAP_FLY")
    assert capabilities.get() == before

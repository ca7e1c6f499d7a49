"""What tells the hostagent that the guest's clock has to be set."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from vmbackend.machine.clock import ClockWatch


class Clocks:
    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = 1_800_000_000.0, 5000.0

    def pass_by(self, wall_s: float, monotonic_s: float) -> None:
        self.wall_s += wall_s
        self.monotonic_s += monotonic_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(time, "time", lambda: clocks.wall_s)
    monkeypatch.setattr(time, "monotonic", lambda: clocks.monotonic_s)
    return clocks


@pytest.mark.parametrize(
    "what, happens, told",
    [
        ("nothing", lambda clocks: clocks.pass_by(10, 10), False),
        ("woken before its time", lambda clocks: clocks.pass_by(3, 3), False),
        ("set forwards", lambda clocks: clocks.pass_by(3610, 10), True),
        ("set back", lambda clocks: clocks.pass_by(-3590, 10), True),
        ("set back, woken before its time", lambda clocks: clocks.pass_by(-5, 2), True),
        ("slept, and the monotonic clock with it", lambda clocks: clocks.pass_by(600, 10), True),
        ("slept, and the monotonic clock did not", lambda clocks: clocks.pass_by(600, 600), True),
    ],
)
def test_a_jump_is_told_once(clocks: Clocks, what: str, happens: Callable[[Clocks], None], told: bool) -> None:
    watch = ClockWatch()
    watch.wait_begins(10)
    happens(clocks)
    assert watch.jumped() is told
    watch.wait_begins(10)
    clocks.pass_by(10, 10)
    assert not watch.jumped()


def test_what_drifts_apart_slowly_is_told_in_the_end(clocks: Clocks) -> None:
    watch = ClockWatch()
    told = []
    for _ in range(60):
        watch.wait_begins(10)
        clocks.pass_by(10.05, 10)
        told.append(watch.jumped())
    assert sum(told) in (2, 3)

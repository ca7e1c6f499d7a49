"""The wall clock may be set while containers run: what is measured is measured by a clock that nobody sets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtime.engine import health
from runtime.engine.container import TICKS_PER_S, Container, Health, Probe, State
from runtime.engine.restarts import FIRST_DELAY_S, STABLE_AFTER_S, Backoff

HOUR_NS = 3600 * 10**9


def container(up_s: float, clock_was_set_by_ns: int) -> Container:
    """One that has been up for `up_s`, with a wall clock that has been set since its start."""
    config = {"Cmd": ["x"], "Healthcheck": {"Test": ["CMD", "x"], "StartPeriod": 60 * 10**9, "Interval": 30 * 10**9}}
    found = Container("1" * 64, "name", 0, "", "", config, {}, {}, {}, Path("/nowhere"))
    start_time = int((time.clock_gettime(time.CLOCK_BOOTTIME) - up_s) * TICKS_PER_S)
    started_ns = time.time_ns() - int(up_s * 1e9) - clock_was_set_by_ns
    found.state = State("running", 1, start_time, started_ns=started_ns, health=Health())
    return found


@pytest.mark.parametrize("set_by_ns", [0, HOUR_NS, -HOUR_NS])
@pytest.mark.parametrize(("up_s", "counts"), [(10, False), (70, True)])
def test_a_start_period_is_as_long_as_it_is(set_by_ns: int, up_s: float, counts: bool) -> None:
    one = container(up_s, set_by_ns)
    assert abs(one.state.up_s - up_s) < 1
    check = one.options.healthcheck
    assert check and (health._pause_s(one, check) == check.start_interval_s) is not counts
    now_ns = time.time_ns()
    health.note(one, check, Probe(now_ns, now_ns, 1, ""))
    assert one.state.health and one.state.health.failing_streak == int(counts)


def test_a_process_of_another_boot_is_not_older_than_time() -> None:
    assert State(start_time=10**15).up_s == 0


def test_waiting_grows_until_it_has_run_for_long() -> None:
    backoff = Backoff()
    assert [backoff.next(0.1) for _ in range(3)] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert backoff.next(STABLE_AFTER_S) == FIRST_DELAY_S

"""The rate of this computer's time stamp counter.

An emulated guest sees the host's counter and has to find out how fast it runs. On `microvm` it has nothing but
the old interval timer to compare with; on a busy host that fails, and the kernel stops for good without a word.
Told the rate (`tsc_early_khz`), it does not have to measure.
"""

import ctypes
import time
from collections.abc import Callable

from vmbackend import host

_MEASURE_S = 0.02
_ATTEMPTS = 5

# rdtsc; shl rdx,32; or rax,rdx; ret
_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")


def host_tsc_khz() -> int | None:
    """Measure for a fiftieth of a second, to some 10 ppm; None where it cannot be read."""
    if host.machine_arch() != "x86_64":
        return None
    try:
        with host.executable_memory(_READ_COUNTER) as address:
            return _measure(ctypes.CFUNCTYPE(ctypes.c_uint64)(address))
    except OSError:
        return None  # a hardened system allows no memory that is both writable and executable


def _measure(read_counter: Callable[[], int]) -> int:
    counter, nanoseconds = _read_together(read_counter)
    time.sleep(_MEASURE_S)
    later_counter, later_nanoseconds = _read_together(read_counter)
    return round((later_counter - counter) * 1_000_000 / (later_nanoseconds - nanoseconds))


def _read_together(read_counter: Callable[[], int]) -> tuple[int, int]:
    """The counter and the clock (ns) at one moment: of a few readings, the one least disturbed."""
    readings = []
    for _ in range(_ATTEMPTS):
        before = time.perf_counter_ns()
        counter = read_counter()
        after = time.perf_counter_ns()
        readings.append((after - before, counter, (before + after) // 2))
    _, counter, nanoseconds = min(readings)
    return counter, nanoseconds

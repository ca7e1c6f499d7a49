"""When the guest's clock is not this computer's any more."""

import time

_TOLERANCE_S = 1.0


class ClockWatch:
    """Finds out that this computer's clock was set, forwards or back, or ran on while the computer slept."""

    def __init__(self) -> None:
        self._offset_s = self._now_offset_s()
        self._wake_at = time.time()

    def wait_begins(self, seconds: float) -> None:
        """Nothing happens for so long, unless the computer sleeps."""
        self._wake_at = time.time() + seconds

    def jumped(self) -> bool:
        """Since the last time this was true, or since the wait began."""
        # Whether the monotonic clock stands still while the computer sleeps depends on the system, so both are needed.
        if abs(self._now_offset_s() - self._offset_s) < _TOLERANCE_S and time.time() - self._wake_at < _TOLERANCE_S:
            return False
        self._offset_s = self._now_offset_s()
        return True

    @staticmethod
    def _now_offset_s() -> float:
        return time.time() - time.monotonic()

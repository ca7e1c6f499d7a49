"""Restart policies: whether a container that has ended is started again, and how long that waits.

As Docker: 100 ms at first, twice as long each time up to a minute, and from the start again after ten seconds of
running.
"""

from __future__ import annotations

from runtime.engine.options import RestartPolicy

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 60.0
STABLE_AFTER_S = 10.0


class Backoff:
    """How long a container waits before it is started again."""

    def __init__(self) -> None:
        self._delay_s = 0.0

    def next(self, ran_s: float) -> float:
        """The delay in seconds after a run of `ran_s` seconds."""
        if ran_s >= STABLE_AFTER_S or not self._delay_s:
            self._delay_s = FIRST_DELAY_S
        else:
            self._delay_s = min(2 * self._delay_s, MAX_DELAY_S)
        return self._delay_s

    def reset(self) -> None:
        self._delay_s = 0.0


def wanted(policy: RestartPolicy, exit_code: int, restart_count: int, stopped_by_user: bool) -> bool:
    """Whether the policy wants a container started that has ended with `exit_code`."""
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not stopped_by_user
    if policy.name == "on-failure":
        return exit_code != 0 and (not policy.max_retries or restart_count < policy.max_retries)
    return False

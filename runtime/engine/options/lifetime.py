"""Restart policies and health checks."""

from __future__ import annotations

from typing import Any

from runtime.engine.options.model import Document, Healthcheck, RestartPolicy
from runtime.errors import InvalidParameter

MIN_DURATION_NS = 1_000_000
DEFAULT_SHELL = ["/bin/sh", "-c"]
# Docker's field, and how it and a model's field are called
HEALTH_DURATIONS = {
    "Interval": "interval_s",
    "Timeout": "timeout_s",
    "StartPeriod": "start_period_s",
    "StartInterval": "start_interval_s",
}


def restart_policy(host: Document) -> RestartPolicy:
    """HostConfig.RestartPolicy; raises InvalidParameter."""
    document = host.get("RestartPolicy") or {}
    name: Any = document.get("Name") or "no"
    retries = document.get("MaximumRetryCount") or 0
    if not isinstance(retries, int):
        raise InvalidParameter(f"invalid restart policy: maximum retry count {retries!r} is not a number")
    if name == "on-failure":
        if retries < 0:
            raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    elif name not in ("no", "always", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'"
        )
    elif retries:
        negative = " and cannot be negative" if retries < 0 else ""
        raise InvalidParameter(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}"
        )
    if host.get("AutoRemove") and name != "no":
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    return RestartPolicy(name, retries)


def merged_healthcheck(config: Document, image: Document) -> dict[str, Any] | None:
    """The request's Healthcheck, what it leaves out taken from the image's."""
    own, inherited = config.get("Healthcheck"), image.get("Healthcheck")
    if not own:
        return dict(inherited) if inherited else None
    if own.get("Test") or not inherited:
        return dict(own)
    return {**inherited, **{name: value for name, value in own.items() if value}}


def healthcheck(config: Document, image: Document) -> Healthcheck | None:
    """None without a check, or with one switched off; raises InvalidParameter."""
    document = merged_healthcheck(config, image)
    if not document:
        return None
    values: dict[str, Any] = {}
    for name, ours in HEALTH_DURATIONS.items():
        duration_ns = document.get(name) or 0
        if not isinstance(duration_ns, int) or (duration_ns and duration_ns < MIN_DURATION_NS):
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
        if duration_ns:
            values[ours] = duration_ns / 1e9
    retries = document.get("Retries") or 0
    if not isinstance(retries, int) or retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
    if retries:
        values["retries"] = retries
    test = document.get("Test") or []
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        raise InvalidParameter("invalid Healthcheck.Test: a list of strings is needed")
    if len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return None
    shell = config.get("Shell") or image.get("Shell") or DEFAULT_SHELL
    return Healthcheck([*(shell if test[0] == "CMD-SHELL" else []), *test[1:]], **values)

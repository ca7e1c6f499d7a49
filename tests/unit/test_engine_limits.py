"""What `docker update` makes of limits, and what a host without a controller is warned of."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cgroups import HostFacts
from runtime.engine.options import merge_limits, verify_limits
from runtime.errors import Conflict, InvalidParameter

MIB = 1 << 20
FLAGS = [name for name, kind in HostFacts.__annotations__.items() if kind in (bool, "bool")]


def facts(able: bool = True) -> Any:
    return {"version": "2", "controllers": [], **dict.fromkeys(FLAGS, able)}


def test_a_host_that_can_do_nothing() -> None:
    asked: dict[str, Any] = {"Memory": 64 * MIB, "MemoryReservation": 32 * MIB, "MemorySwappiness": 5, "PidsLimit": 9}
    asked |= {"CpuShares": 5, "CpuQuota": 5000, "CpusetCpus": "0", "BlkioWeight": 100, "OomKillDisable": True}
    asked |= {"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}]}
    host, warnings = verify_limits(asked, facts(False))
    assert not any(host.get(name) for name in asked), host
    assert len(warnings) == len(asked)
    assert all("Your kernel does not support" in warning for warning in warnings)


def test_swap_is_twice_the_memory() -> None:
    assert verify_limits({"Memory": 8 * MIB}, facts())[0]["MemorySwap"] == 16 * MIB
    assert verify_limits({"Memory": 8 * MIB, "MemorySwap": -1}, facts())[0]["MemorySwap"] == -1


@pytest.mark.parametrize(
    "host, changes, kind",
    [
        ({"NanoCpus": 1}, {"CpuQuota": 5000}, Conflict),
        ({"CpuPeriod": 1000}, {"NanoCpus": 10**8}, Conflict),
        ({"Memory": 8 * MIB, "MemorySwap": 16 * MIB}, {"Memory": 32 * MIB}, Conflict),
        ({"Memory": 8 * MIB, "MemorySwap": 16 * MIB}, {"MemorySwap": 7 * MIB}, InvalidParameter),
        ({}, {"Memory": 5}, InvalidParameter),
    ],
)
def test_updates_that_do_not_fit(host: dict[str, Any], changes: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        merge_limits(host, changes, facts())


def test_an_update_leaves_the_rest_alone() -> None:
    host = {"Memory": 8 * MIB, "MemorySwap": 16 * MIB, "PidsLimit": 7, "CapAdd": ["KILL"]}
    merged, warnings = merge_limits(host, {"Memory": 12 * MIB, "CpuShares": 0, "PidsLimit": -1}, facts())
    assert merged == {**host, "Memory": 12 * MIB, "PidsLimit": -1}
    assert warnings == []

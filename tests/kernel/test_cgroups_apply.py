"""`docker update`'s limits on a real cgroup: up, down, and off again, in whatever order the kernel needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups import Cgroup, host_facts, mounted_roots, open_cgroup, remove_subtree
from runtime.engine.limits import apply_limits
from runtime.engine.options import merge_limits, verify_limits
from runtime.engine.options.resources import resources

MIB = 1 << 20
V1 = host_facts()["version"] == "1"
FILES = (
    ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", "cpu.shares", "pids.max")
    if V1
    else ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")
)


@pytest.fixture
def parent() -> Iterator[str]:
    path = f"/wherry-test-limits-{os.getpid()}"
    yield path
    remove_subtree(path)


def read(cgroup: Cgroup, file: str) -> str:
    found = [Path(root + cgroup.path, file) for root in mounted_roots() if Path(root + cgroup.path, file).exists()]
    return found[0].read_text().strip()


def test_up_and_down(parent: str) -> None:
    facts = host_facts()
    host: dict[str, Any] = verify_limits({"Memory": 64 * MIB, "NanoCpus": 500_000_000, "PidsLimit": 20}, facts)[0]
    cgroup = open_cgroup(f"{parent}/one")
    cgroup.create(resources(host))
    steps: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
        ({"Memory": 256 * MIB, "MemorySwap": 512 * MIB}, ("268435456", "536870912", "20")),
        ({"Memory": 16 * MIB, "MemorySwap": 16 * MIB, "CpuShares": 512}, ("16777216", "16777216", "20")),
        ({"MemorySwap": -1, "PidsLimit": -1, "NanoCpus": 250_000_000}, ("16777216", "none", "max")),
        ({"PidsLimit": 7}, ("16777216", "none", "7")),
    ]
    for changes, (memory, swap, pids) in steps:
        host, warnings = merge_limits(host, changes, facts)
        assert warnings == []
        apply_limits(cgroup, host)
        assert (read(cgroup, FILES[0]), read(cgroup, FILES[4])) == (memory, pids)
        if V1:
            shown = read(cgroup, FILES[1])
            assert int(shown) > 1 << 60 if swap == "none" else shown == swap
    assert read(cgroup, FILES[2]).split()[0] == "25000"
    assert read(cgroup, FILES[3]) == ("512" if V1 else "59")

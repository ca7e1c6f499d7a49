"""Many containers at once: what each costs, and whether the engine stays quick."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import Peer
from tests.bench.table import show

HUNDRED = 100
THOUSAND = 1000
LISTS = 20


def hundred(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """Started one by one on a bridge; none is removed before all run."""
    times: dict[str, float] = {}
    memory: dict[str, float] = {}
    for peer in peers:
        before_kb = peer.memory_kb()
        taken, ids = [], []
        for _ in range(HUNDRED):
            started = time.perf_counter()
            ids.append(peer.api.start("sleep", "1000", network="bridge"))
            taken.append(time.perf_counter() - started)
        times[peer.name] = statistics.median(taken) * 1000
        memory[peer.name] = (peer.memory_kb() - before_kb) / HUNDRED
        for id in ids:
            peer.api.remove(id)
    show(f"{HUNDRED} containers on a bridge, create+start of each (median)", times, "ms")
    show("the engine's side of each, memory", memory, "KB")


def thousand(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """Wherry alone: a Docker Engine takes minutes for this."""
    peer = peers[0]
    ids = [peer.api.start("sleep", "10000") for _ in range(THOUSAND)]
    taken = []
    for _ in range(LISTS):
        started = time.perf_counter()
        listed = peer.api.call("GET", "/containers/json")
        taken.append(time.perf_counter() - started)
        assert len(listed) == THOUSAND
    show(f"{THOUSAND} containers running, list of all (median of {LISTS})", {"wherry": _median_ms(taken)}, "ms")
    show("engine and launcher together, memory", {"wherry": peer.memory_kb() / 1024}, "MB")
    for id in ids:
        peer.api.remove(id)


def _median_ms(taken: Sequence[float]) -> float:
    return statistics.median(taken) * 1000

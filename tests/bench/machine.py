"""The virtual machine: from `wherry up --backend vm` to an engine that answers on the host."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import Peer

ROUNDS = 4


def machine(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """The first boot also makes the disk."""
    environment = {**os.environ, "XDG_DATA_HOME": str(root / "machines")}
    wherry = [str(Path(sys.executable).with_name("wherry")), "--backend", "vm"]
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([*wherry, "up"], env=environment, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
        subprocess.run([*wherry, "down"], env=environment, check=True, capture_output=True)
    print(f"\nmachine, `wherry up` to /_ping: first {times[0]:.1f} s, then median {statistics.median(times[1:]):.1f} s")

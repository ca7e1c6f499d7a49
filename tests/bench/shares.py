"""A share of the machine beside the machine's own disk: large content both ways, many small files."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import Peer
from vmbackend import MachineManager, MachineSettings

MIB = 100
FILES = 2000
MOUNT_DEADLINE_S = 120

WORK = {
    f"{MIB} MB from a container": f"dd if=/dev/zero of=/x/big bs=1M count={MIB} conv=fsync",
    f"{MIB} MB to a container": "echo 3 >/proc/sys/vm/drop_caches; dd if=/x/big of=/dev/null bs=1M",
    f"{FILES} small files made": f"mkdir /x/many; for i in $(seq {FILES}); do echo content >/x/many/$i; done",
    f"{FILES} small files read": "echo 3 >/proc/sys/vm/drop_caches; cat /x/many/* >/dev/null",
    f"{FILES} files listed with sizes": "echo 3 >/proc/sys/vm/drop_caches; ls -l /x/many >/dev/null",
    f"{FILES} files removed": "rm -r /x/many",
}


def shares(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """What the share takes longer than the machine's own disk is the transport's part."""
    manager, directory = MachineManager(root / "machines"), root / "shared"
    directory.mkdir()
    manager.start("shares", MachineSettings(shares=(str(directory),), save_on_stop=False))
    try:
        deadline = time.monotonic() + MOUNT_DEADLINE_S
        while not all(share["mounted"] for share in manager.shares("shares")) or not manager.shares("shares"):
            assert time.monotonic() < deadline, manager.status("shares").reasons
            time.sleep(0.2)
        environment = {**os.environ, "DOCKER_HOST": manager.engine_host("shares")}
        times = {}
        for place in (str(directory), "own-disk"):
            start = ["docker", "run", "-d", "--privileged", "--name", "bench", "-v", f"{place}:/x", "alpine"]
            subprocess.run([*start, "sleep", "1000000"], env=environment, check=True, capture_output=True)
            for what, script in WORK.items():
                started = time.perf_counter()
                subprocess.run(
                    ["docker", "exec", "bench", "sh", "-c", script], env=environment, check=True, capture_output=True
                )
                times[place, what] = time.perf_counter() - started
            subprocess.run(["docker", "rm", "-f", "bench"], env=environment, check=True, capture_output=True)
        print("\nshares: seconds in a share, and the transport's part of them")
        for what in WORK:
            shared, own = times[str(directory), what], times["own-disk", what]
            print(f"  {what:32}{shared:8.2f}  {max(0.0, 1 - own / shared):4.0%}")
    finally:
        manager.stop("shares", force=True)

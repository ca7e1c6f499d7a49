"""The virtual machine: starting, saving, going on, resting, and what it costs while it does nothing."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.bench import quicksand
from tests.bench.peers import Peer
from vmbackend import MachineManager, MachineSettings, host
from vmbackend.machine.store import ProcessRecord

ROUNDS = 4
IDLE_S = 20.0
SETTINGS = MachineSettings(cpus=2, memory_mib=1024, disk_gib=8, idle_pause_s=0, accelerator="tcg")


def machine(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """The first boot also makes the disk, and the state from which the others go on. All of it under emulation."""
    home = root / "machines"
    manager = MachineManager(home / "wherry" / "machines")
    manager.create("default", SETTINGS)
    environment = {**os.environ, "XDG_DATA_HOME": str(home), "DOCKER_HOST": manager.engine_host()}
    wherry = [str(Path(sys.executable).with_name("wherry")), "--backend", "vm"]

    def up() -> None:
        subprocess.run([*wherry, "up"], env=environment, check=True, capture_output=True)

    boots, ends, resumes, saves = [], [], [], []
    for number in range(ROUNDS):
        boots.append(_seconds(up))
        if number < ROUNDS - 1:
            ends.append(_seconds(manager.stop))
    _show("`wherry up` to /_ping, the first time", boots[:1])
    _show("`wherry up` to /_ping, cold", boots[1:])
    _show("clean power-off", ends)
    others = list(quicksand.first_commands(ROUNDS - 1))
    _show("quicksand to its first command", others)
    times = statistics.median(others) / statistics.median(boots[1:])
    print(f"  a cold start is faster than quicksand's by  {times:8.1f} x")
    subprocess.run(["docker", "run", "-d", "alpine", "sleep", "1d"], env=environment, check=True, capture_output=True)
    for _ in range(ROUNDS):
        saves.append(_seconds(manager.save))
        resumes.append(_seconds(up))
        if not manager.status().resumed:
            print(f"  not resumed: {manager.status().cold_boot_reason}")
    _show("stop with save, a container running", saves)
    _show("`wherry up` to /_ping, from the saved state", resumes)
    subprocess.run(["docker rm -f $(docker ps -q)"], shell=True, env=environment, check=True, capture_output=True)
    _rest(manager, home)
    manager.stop()


def _rest(manager: MachineManager, home: Path) -> None:
    awake = [_seconds(lambda: _ping(manager)) for _ in range(ROUNDS)]
    print(f"  host CPU, nobody uses it, not paused        {_cpu_percent(home):8.2f} % of a core")
    manager.set("default", replace(SETTINGS, idle_pause_s=1))
    wakes = []
    for _ in range(ROUNDS):
        deadline = time.monotonic() + 60
        while manager.status().state != "idle" and time.monotonic() < deadline:
            time.sleep(0.5)
        if not wakes:
            held = manager.usage().host_memory_bytes or 0
            print(f"  host CPU, idle and paused                   {_cpu_percent(home):8.2f} % of a core")
            print(f"  QEMU's resident memory, idle, of 1024 MiB   {held / 2**20:8.0f} MiB")
        wakes.append(_seconds(lambda: _ping(manager)))
    _show("/_ping, awake", awake)
    _show("/_ping, waking it", wakes)


def _ping(manager: MachineManager) -> None:
    stream = host.connect_engine("default", Path(manager.engine_host().removeprefix("unix://")), 30)
    with closing(stream):
        stream.sendall(b"GET /_ping HTTP/1.1\r\nHost: wherry\r\nConnection: close\r\n\r\n")
        while stream.recv(4096):
            pass


def _cpu_percent(home: Path) -> float:
    """Of QEMU and the hostagent together."""
    directory = home / "wherry" / "machines" / "default"
    records = [ProcessRecord.read(directory / f"{name}.json") for name in ("qemu", "hostagent")]

    def ticks() -> int:
        total = 0
        for record in records:
            assert record is not None
            fields = Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total

    before = ticks()
    time.sleep(IDLE_S)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / IDLE_S * 100


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _show(what: str, times: Sequence[float]) -> None:
    print(f"  {what:43} {statistics.median(times):8.2f} s   of {', '.join(f'{one:.2f}' for one in times)}", flush=True)

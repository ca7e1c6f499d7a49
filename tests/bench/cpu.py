"""What a container's life and an exec cost in CPU time: says more than a clock where others use the machine too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from runtime.cgroups.hierarchy import mounted
from tests.bench.lives import docker_run, exec_true, life
from tests.bench.peers import Peer
from tests.bench.table import show

WARM_UP = 5


class _Meter:
    """A cgroup that counts the CPU time of what is moved there, and of its children while they stay."""

    def __init__(self, path: str) -> None:
        hierarchies = mounted()
        self._v1 = hierarchies.v1.get("cpuacct")
        self.directory = Path(f"{self._v1 or hierarchies.unified}{path}")

    def take_in(self, pids: Sequence[int]) -> None:
        self.directory.mkdir()
        for pid in pids:
            (self.directory / "cgroup.procs").write_text(str(pid))

    def ms(self) -> float:
        if self._v1:
            return int((self.directory / "cpuacct.usage").read_text()) / 1e6
        usage = (self.directory / "cpu.stat").read_text().split("\n", 1)[0]  # "usage_usec 123"
        return int(usage.split()[1]) / 1e3

    def remove(self) -> None:
        """What is in it moves up."""
        with contextlib.suppress(FileNotFoundError):
            for pid in (self.directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (self.directory.parent / "cgroup.procs").write_text(pid)
            self.directory.rmdir()


@contextlib.contextmanager
def _meters(peer: Peer) -> Iterator[dict[str, _Meter]]:
    """By whose time it is. Containers are in cgroups of their engine's own, which count what has ended there too."""
    base = f"/wherry-bench-{os.getpid()}-{peer.name}"
    taken: dict[str, _Meter] = {}
    try:
        for part, pids in peer.parts().items():
            taken[part] = _Meter(f"{base}-{part}")
            taken[part].take_in(pids)
        yield taken | {"containers": _Meter(peer.cgroup_parent())}
    finally:
        for meter in taken.values():
            meter.remove()


def cpu(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """The kernel's own threads, which take down namespaces and cgroups, are in nobody's account."""
    for title, network in (("create+start+wait+remove, no network", "none"), ("the same, bridge", "bridge")):
        _show(title, {peer.name: (peer, partial(life, peer.api, network)) for peer in peers}, rounds)
    _show("docker run --rm busybox true, without the CLI", {p.name: (p, partial(docker_run, p)) for p in peers}, rounds)
    ids = {peer.name: peer.api.start("sleep", "1000") for peer in peers}
    _show("exec of `true`", {p.name: (p, partial(exec_true, p.api, ids[p.name])) for p in peers}, rounds)
    for peer in peers:
        peer.api.remove(ids[peer.name])


def _show(title: str, works: dict[str, tuple[Peer, Callable[[], None]]], rounds: int) -> None:
    totals, parts = {}, []
    for name, (peer, work) in works.items():
        for _ in range(WARM_UP):
            work()
        with _meters(peer) as meters:
            before = {part: meter.ms() for part, meter in meters.items()}
            for _ in range(rounds):
                work()
            spent = {part: (meter.ms() - before[part]) / rounds for part, meter in meters.items()}
        totals[name] = sum(spent.values())
        parts.append(f"  {name:12} {', '.join(f'{part} {ms:.2f}' for part, ms in spent.items())}")
    show(f"{title}, CPU time (mean of {rounds})", totals, "ms")
    print("\n".join(parts), flush=True)

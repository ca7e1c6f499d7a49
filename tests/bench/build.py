"""How fast images are built: from the cache, anew, and stages at once.

By the docker CLI with the classic protocol. That CLI packs and sends all of the context every time, which is most of a
build that finds everything in its cache; so this one is done by `wherry build` too, beside BuildKit where there is a
CLI that speaks to dockerd's (Debian's, of 20.10).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench.lives import timed
from tests.bench.peers import Peer
from tests.bench.table import show_times

STEPS = 30
FILES = 5000
RUNS = 20
STAGE_S = 3
DEBIANS_DOCKER = "/usr/bin/docker"


def _build(peer: Peer, context: Path, *options: str) -> None:
    environment = {**peer.environment(), "DOCKER_BUILDKIT": "0"}
    command = ["docker", "build", "-q", *options, str(context)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _wherry_build(peer: Peer, context: Path) -> None:
    command = [sys.executable, "-m", "app", "--host", f"unix://{peer.socket}", "build", "-q", str(context)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _buildkit(peers: Sequence[Peer]) -> Callable[[Path], None] | None:
    """Builds by dockerd's own BuildKit, if a CLI is here that needs no plugin for that."""

    def build(context: Path) -> None:
        environment = {**peers[-1].environment(), "DOCKER_BUILDKIT": "1"}
        command = [DEBIANS_DOCKER, "build", "-q", str(context)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    if len(peers) < 2 or not os.path.exists(DEBIANS_DOCKER):
        return None
    version = subprocess.run([DEBIANS_DOCKER, "--version"], check=True, capture_output=True).stdout
    return build if b" 20.10." in version else None


def _show_cached(title: str, peers: Sequence[Peer], context: Path, rounds: int) -> None:
    measures = {peer.name: partial(timed, partial(_build, peer, context)) for peer in peers}
    show_times(f"docker build, {title}", measures, rounds)
    measures = {"wherry": partial(timed, partial(_wherry_build, peers[0], context))}
    if buildkit := _buildkit(peers):
        measures["buildkit"] = partial(timed, partial(buildkit, context))
    show_times(f"wherry build, {title}", measures, rounds)


def builds(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    rounds = max(rounds // 10, 3)
    cached = root / "cached"
    for number in range(FILES):
        path = cached / f"d{number % 50}/f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 50)
    steps = ["COPY . /context", *(f"ENV V{number}={number}" for number in range(STEPS - 2))]
    (cached / "Dockerfile").write_text("\n".join(["FROM busybox", *steps]) + "\n")
    for peer in peers:
        _build(peer, cached)
    _show_cached(f"everything cached: {STEPS} steps, {FILES} files", peers, cached, rounds)

    small = root / "small"
    small.mkdir()
    commands = [f"RUN echo {number} > /{number}" for number in range(RUNS)]
    (small / "Dockerfile").write_text("\n".join(["FROM busybox", *commands]) + "\n")
    anew = {peer.name: partial(timed, partial(_build, peer, small, "--no-cache")) for peer in peers}
    show_times(f"docker build --no-cache, {RUNS} small RUN", anew, rounds)

    stages = root / "stages"
    stages.mkdir()
    busy = f"RUN end=$(( $(date +%s) + {STAGE_S} )); while [ $(date +%s) -lt $end ]; do :; done; touch /done"
    one = f"FROM busybox AS one\n{busy}\n"
    two = f"FROM busybox AS two\n{busy}\n"
    (stages / "Dockerfile").write_text(f"{one}{two}FROM busybox\nCOPY --from=one /done /1\nCOPY --from=two /done /2\n")
    for title, options in (("one stage", ("--target", "one")), ("two independent stages of that length", ())):
        measures = {peer.name: partial(timed, partial(_build, peer, stages, "--no-cache", *options)) for peer in peers}
        show_times(f"docker build, {title}", measures, 3)

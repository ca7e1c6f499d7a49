"""How fast images are built, by the docker CLI with the classic protocol: from the cache, anew, and stages at once."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.lives import timed
from tests.bench.peers import Peer
from tests.bench.table import show_times

STEPS = 30
FILES = 5000
RUNS = 20
STAGE_S = 3


def _build(peer: Peer, context: Path, *options: str) -> None:
    environment = {**peer.environment(), "DOCKER_BUILDKIT": "0"}
    command = ["docker", "build", "-q", *options, str(context)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


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
    title = f"docker build, everything cached: {STEPS} steps, {FILES} files"
    show_times(title, {peer.name: partial(timed, partial(_build, peer, cached)) for peer in peers}, rounds)

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

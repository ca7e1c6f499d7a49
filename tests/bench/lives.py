"""How fast containers live: whole lives through the API and through the docker CLI, and execs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench.peers import Api, Peer, runc_bundle
from tests.bench.table import Measure, show_times


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def life(api: Api, network: str) -> None:
    """Create, start, wait, remove."""
    id = api.start("true", network=network)
    api.wait(id)
    api.call("DELETE", f"/containers/{id}")


def api_lives(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    for title, network in (("API create+start+wait+remove, no network", "none"), ("the same, bridge", "bridge")):
        show_times(title, {peer.name: partial(timed, partial(life, peer.api, network)) for peer in peers}, rounds)


def docker_run(peer: Peer) -> None:
    command = ["docker", "run", "--rm", "busybox", "true"]
    subprocess.run(command, env=peer.environment(), check=True)


def cli_lives(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    measures: dict[str, Measure] = {peer.name: partial(timed, partial(docker_run, peer)) for peer in peers}
    with runc_bundle(root) as bundle:
        if bundle:
            command = ["runc", "run", "--bundle", str(bundle), "wherry-bench"]
            measures["runc alone"] = partial(timed, partial(subprocess.run, command, check=True))
        show_times("docker run --rm busybox true, bridge", measures, max(rounds // 2, 5))


def exec_true(api: Api, id: str) -> None:
    exec_id = api.call("POST", f"/containers/{id}/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"]
    api.call("POST", f"/exec/{exec_id}/start", {})  # a new connection's worth of stream, up to the end of the output


def execs(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    ids = {peer.name: peer.api.start("sleep", "1000") for peer in peers}
    measures = {peer.name: partial(timed, partial(exec_true, Api(peer.socket), ids[peer.name])) for peer in peers}
    show_times("API exec create+start of `true`, to its end", measures, rounds)
    for peer in peers:
        peer.api.remove(ids[peer.name])

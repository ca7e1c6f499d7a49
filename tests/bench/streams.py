"""Bytes out of containers: through the log, and through a published port."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.lives import timed
from tests.bench.peers import Peer
from tests.bench.table import show, show_times

LOG_BYTES = 32 << 20
PORT_BYTES = 512 << 20
LINE = "0123456789abcdef" * 7  # with its newline 113 bytes
ROUNDS = 3

_READER = """
import socket, sys, time
for _ in range(200):
    try:
        sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        started = time.perf_counter()
        got = len(sock.recv(1 << 20))
        if got:
            break
    except OSError:
        pass
    time.sleep(0.02)
while chunk := sock.recv(1 << 20):
    got += len(chunk)
print(got / (time.perf_counter() - started) / 1e6)
"""


def logs(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    def write(peer: Peer) -> float:
        return timed(partial(_logged, peer, remove=True))

    show_times(f"a container that prints {LOG_BYTES >> 20} MB", {p.name: partial(write, p) for p in peers}, ROUNDS)
    ids = {peer.name: _logged(peer) for peer in peers}

    def read(peer: Peer) -> float:
        started = time.perf_counter()
        found = peer.api.call("GET", f"/containers/{ids[peer.name]}/logs?stdout=1")
        assert len(found) >= LOG_BYTES
        return time.perf_counter() - started

    show_times("reading that log", {peer.name: partial(read, peer) for peer in peers}, ROUNDS)
    for peer in peers:
        peer.api.remove(ids[peer.name])


def _logged(peer: Peer, *, remove: bool = False) -> str:
    id = peer.api.start("sh", "-c", f"yes {LINE} | head -c {LOG_BYTES}")
    peer.api.wait(id)
    if remove:
        peer.api.remove(id)
    return id


def ports(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    figures = {peer.name: max(_throughput(peer) for _ in range(ROUNDS)) for peer in peers}
    title = f"a published port, {PORT_BYTES >> 20} MB to 127.0.0.1 (best of {ROUNDS})"
    show(title, figures, "MB/s", more_is_better=True)


def _throughput(peer: Peer) -> float:
    send = f"head -c {PORT_BYTES} /dev/zero | nc -l -p 80"
    id = peer.api.start("sh", "-c", send, network="bridge", ports=[80])
    try:
        bindings = peer.api.call("GET", f"/containers/{id}/json")["NetworkSettings"]["Ports"]["80/tcp"]
        command = [sys.executable, "-c", _READER, bindings[0]["HostPort"]]
        if peer.netns:
            command = ["nsenter", f"--net=/run/netns/{peer.netns}", *command]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        peer.api.remove(id)

"""A share of the machine beside the machine's own disk: large content both ways, many small files. And its published
ports beside the network inside of it.

9p is no peer here: QEMU refuses to save a machine with a mounted share of it, so ours has no such device.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.peers import Peer
from vmbackend import MachineManager, MachineSettings

MIB = 100
FOLDERS, FILES = 20, 600
DEADLINE_S = 120
NETWORK, OUT_PORT, IN_PORT = "bench", 8001, 8002

_COLD = "echo 3 >/proc/sys/vm/drop_caches; "
WORK = {
    f"{MIB} MB from a container": f"dd if=/dev/zero of=/x/big bs=1M count={MIB} conv=fsync",
    f"{MIB} MB to a container": f"{_COLD}dd if=/x/big of=/dev/null bs=1M",
    "1000 writes of 4 KiB": "dd if=/dev/zero of=/x/small bs=4k count=1000",
    f"{FILES} files made in {FOLDERS} folders": (
        f"for d in $(seq {FOLDERS}); do mkdir -p /x/many/$d; "
        f"for i in $(seq {FILES // FOLDERS}); do echo content >/x/many/$d/$i; done; done"
    ),
    "find by size": f"{_COLD}find /x/many -size +9k",
    "find by size, again": "find /x/many -size +9k",
    "tar": f"{_COLD}tar c /x/many | cat >/dev/null",
    "rm -r": "rm -r /x/many",
}


def shares(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """What it takes longer than within the machine is the transport's part."""
    manager, directory = MachineManager(root / "machines"), root / "shared"
    directory.mkdir()
    manager.start("shares", MachineSettings(shares=(str(directory),), save_on_stop=False, idle_pause_s=0))
    environment = {**os.environ, "DOCKER_HOST": manager.engine_host("shares")}

    def docker(*arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], env=environment, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (now := manager.shares("shares")) or not all(share["mounted"] for share in now):
            assert time.monotonic() < deadline, manager.status("shares").reasons
            time.sleep(0.2)
        _files(docker, directory)
        _ports(docker)
    finally:
        manager.stop("shares", force=True)


def _files(docker: Callable[..., str], directory: Path) -> None:
    times = {}
    for place in (str(directory), "own-disk"):
        docker("run", "-d", "--privileged", "--name", "bench", "-v", f"{place}:/x", "alpine", "sleep", "1000000")
        for what, script in WORK.items():
            times[place, what] = _seconds(docker("exec", "bench", "sh", "-c", f"time -p sh -c '{script}' >/dev/null"))
        docker("rm", "-f", "bench")
    print("\nseconds in a share, on the machine's own disk, and the transport's part", flush=True)
    for what in WORK:
        _show(what, times[str(directory), what], times["own-disk", what])


def _ports(docker: Callable[..., str]) -> None:
    """Out of a container, and into it; the peer is another container on the same network."""
    docker("network", "create", NETWORK)
    ways = {
        OUT_PORT: (f"{MIB} MB out of a published port", f"dd if=/dev/zero bs=1M count={MIB}"),
        IN_PORT: (f"{MIB} MB into a published port", "sh -c 'cat >/dev/null; echo done'"),
    }
    print("\nseconds through a published port, between two containers, and the transport's part")
    for port, (what, command) in ways.items():
        server = ["sh", "-c", f"nc -lk -p {port} -e {command}"]
        publish = ["--network", NETWORK, "--name", "server", "-p", f"127.0.0.1::{port}"]
        docker("run", "-d", *publish, "alpine", *server)
        address = docker("port", "server", str(port)).split()[0].rpartition(":")
        client = f"nc server {port} </dev/null" if port == OUT_PORT else f"nc server {port} -e {ways[OUT_PORT][1]}"
        script = f"until nc -z server {port}; do sleep 0.1; done; time -p sh -c '{client}' >/dev/null"
        inside = _seconds(docker("run", "--rm", "--network", NETWORK, "alpine", "sh", "-c", script))
        _show(what, _through(address[0], int(address[2]), port == OUT_PORT), inside)
        docker("rm", "-f", "server")


def _through(address: str, port: int, out: bool) -> float:
    block = bytearray(1 << 20)
    started = time.perf_counter()
    with socket.create_connection((address, port), DEADLINE_S) as stream:
        if not out:
            for _ in range(MIB):
                stream.sendall(block)
            stream.shutdown(socket.SHUT_WR)
        got = 0
        while count := stream.recv_into(block):
            got += count
    assert got == (MIB << 20 if out else len(b"done\n")), got
    return time.perf_counter() - started


def _seconds(output: str) -> float:
    """Of `time -p`."""
    match = re.search(r"^real\s+([0-9.]+)$", output, re.MULTILINE)
    assert match is not None, output
    return float(match[1])


def _show(what: str, through: float, inside: float) -> None:
    print(f"  {what:34}{through:8.2f} {inside:8.2f}  {max(0.0, 1 - inside / max(through, 0.001)):5.0%}", flush=True)

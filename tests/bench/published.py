"""Bytes through a published port beside a direct connection to the container's address, from where clients are.

The outside is a network namespace of its own, reached by a veth pair; everything is torn down at the end.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.peers import Peer

BYTES = 1 << 30
ROUNDS = 5
NETWORK = "wherry-bench"
OUTSIDE = "wherry-outside"
HOST_ADDRESS, OUTSIDE_ADDRESS = "198.51.100.1", "198.51.100.2"

_SENDER = """
import socket, sys
listener = socket.create_server(("", 80))
block = bytes(1 << 20)
while True:
    connection, _ = listener.accept()
    with connection:
        for _ in range(int(sys.argv[1]) >> 20):
            connection.sendall(block)
"""
_READER = """
import socket, sys, time
buffer = bytearray(1 << 20)
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    started, got = time.perf_counter(), 0
    while count := connection.recv_into(buffer):
        got += count
    print(got / (time.perf_counter() - started) / 1e6)
"""


def published(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    """Of Wherry alone: the ratio is to itself."""
    api = peers[0].api
    options = {"com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected"}  # else nothing comes in directly
    api.call("POST", "/networks/create", {"Name": NETWORK, "Options": options})
    host_config = {"NetworkMode": NETWORK, "PortBindings": {"80/tcp": [{}]}}
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host_config}
    id = api.call("POST", "/containers/create", body)["Id"]
    api.call("POST", f"/containers/{id}/start")
    document = api.call("GET", f"/containers/{id}/json")
    address = document["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
    port = document["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    command = ["nsenter", f"--net=/proc/{document['State']['Pid']}/ns/net", sys.executable, "-c", _SENDER, str(BYTES)]
    try:
        with subprocess.Popen(command) as sender, _outside() as outside:
            try:
                direct = {"direct": (address, "80")}
                _show("from the host", [], direct | {name: (name, port) for name in ("127.0.0.1", "::1")})
                _show("from outside", outside, direct | {"published": (HOST_ADDRESS, port)})
            finally:
                sender.kill()
    finally:
        api.remove(id)
        api.call("DELETE", f"/networks/{NETWORK}")


def _show(title: str, prefix: Sequence[str], ways: dict[str, tuple[str, str]]) -> None:
    """The best of each, measured in turn so that a noisy moment hits all alike."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, target in ways.items():
            best[name] = max(best[name], _read(prefix, *target))
    print(f"\n{BYTES >> 20} MB out of a container, {title} (best of {ROUNDS})")
    for name, figure in best.items():
        print(f"  {name:12} {figure:10.2f} MB/s   {figure / best['direct']:.2f} of direct", flush=True)


def _read(prefix: Sequence[str], address: str, port: str) -> float:
    command = [*prefix, sys.executable, "-c", _READER, address, port]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@contextlib.contextmanager
def _outside() -> Iterator[list[str]]:
    """The command prefix that runs a program there."""
    inside = ["ip", "-n", OUTSIDE]
    subprocess.run(["ip", "netns", "add", OUTSIDE], check=True)
    try:
        for command in (
            ["ip", "link", "add", "wherryout0", "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE],
            ["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", "wherryout0"],
            ["ip", "link", "set", "wherryout0", "up"],
            [*inside, "address", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "route", "add", "default", "via", HOST_ADDRESS],
        ):
            subprocess.run(command, check=True)
        yield ["nsenter", f"--net=/run/netns/{OUTSIDE}"]
    finally:
        subprocess.run(["ip", "netns", "del", OUTSIDE], check=True)

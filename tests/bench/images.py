"""Images between a registry on loopback, the store and archives: some 300 MB of this machine's files in 8 layers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.bench.lives import timed
from tests.bench.peers import Peer
from tests.bench.table import show, show_times
from tests.fakes.images import docker_archive
from tests.fakes.registries import Push, docker_registry
from tests.harness import UnixConnection

SOURCES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/python3", "/usr/share", "/usr/bin", "/usr/sbin", "/etc")
LAYER_BYTES = 38 << 20
LAYERS = 8
ROUNDS = 3
TIMEOUT_S = 600


def images(peers: Sequence[Peer], root: Path, rounds: int) -> None:
    with docker_registry(root / "registry") as address, _elsewhere(root / "registry", peers):
        layers = _layers()
        Push(address, "bench/big").image("1", layers)
        plain = docker_archive(root / "plain.tar", layers, [f"{address}/bench/plain:1"])
        del layers
        name = f"{address}/bench/big:1"
        pulls = {peer.name: partial(_fresh_pull, peer, name) for peer in peers}
        if shutil.which("skopeo") and shutil.which("umoci"):
            pulls["skopeo+umoci"] = partial(_skopeo, name, root / "skopeo")
        before = {peer.name: peer.memory_kb() for peer in peers}
        idle = {peer.name: _peak_kb(peer, reset=True) for peer in peers}
        show_times(f"pull of {LAYERS} layers of {LAYER_BYTES >> 20} MB", pulls, ROUNDS)
        after = {peer.name: (peer.memory_kb() - before[peer.name]) / 1024 for peer in peers}
        show("memory after those pulls, above before", after, "MB")
        peaks = {peer.name: (_peak_kb(peer) - idle[peer.name]) / 1024 for peer in peers}
        show("the engine's memory at most while pulling, above before", peaks, "MB")
        for peer in peers:
            _call(peer, "POST", f"/images/create?fromImage={name}")
        again = {peer.name: partial(_pull, peer, name) for peer in peers}
        show_times("pull when all of it is there", again, rounds)
        numbers = iter(range(1_000_000))
        pushes = {peer.name: partial(_push, peer, name, numbers) for peer in peers}
        show_times("push of the same to a repository that has none of it", pushes, ROUNDS)
        archives = {peer.name: root / f"{peer.name}.tar" for peer in peers}
        saves = {peer.name: partial(_save, peer, name, archives[peer.name]) for peer in peers}
        show_times("save", saves, ROUNDS)
        loads = {peer.name: partial(_fresh_load, peer, name, archives[peer.name]) for peer in peers}
        show_times("load", loads, ROUNDS)
        same = {peer.name: partial(_fresh_load, peer, f"{address}/bench/plain:1", plain) for peer in peers}
        show_times("load of one archive whose layers are not compressed", same, ROUNDS)
        pushes = {peer.name: partial(_fresh_push, peer, f"{address}/bench/plain:1", plain, numbers) for peer in peers}
        show_times("push of layers that are not compressed yet", pushes, 1)


def _peak_kb(peer: Peer, reset: bool = False) -> float:
    """The most its process has had resident; `reset`: from now on (proc(5), clear_refs)."""
    if reset:
        Path(f"/proc/{peer.pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{peer.pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def _layers() -> list[bytes]:
    """Files of this machine, each once."""
    files = (
        os.path.join(directory, name) for source in SOURCES for directory, _, names in os.walk(source) for name in names
    )
    layers = []
    for _ in range(LAYERS):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path in files:
                if os.path.isfile(path) and not os.path.islink(path):
                    tar.add(path, path[1:], recursive=False)
                if out.tell() > LAYER_BYTES:
                    break
        layers.append(out.getvalue())
    return layers


@contextlib.contextmanager
def _elsewhere(root: Path, peers: Sequence[Peer]) -> Iterator[None]:
    """The same registry at the same address in the network namespaces of other peers."""
    with contextlib.ExitStack() as stack:
        for peer in peers:
            if peer.netns:
                prefix = ["nsenter", f"--net=/run/netns/{peer.netns}"]
                process = subprocess.Popen(
                    [*prefix, "docker-registry", "serve", str(root / "config.yml")], stderr=subprocess.DEVNULL
                )
                stack.callback(process.wait)
                stack.callback(process.terminate)
                address = next(line.split()[1] for line in (root / "config.yml").open() if "addr:" in line)
                wait = ["curl", "-s", "--retry", "50", "--retry-connrefused", "--retry-delay", "1"]
                subprocess.run([*prefix, *wait, f"http://{address}/v2/"], check=True, stdout=subprocess.DEVNULL)
        yield


def _call(peer: Peer, method: str, path: str, body: object = None) -> bytes:
    connection = UnixConnection(peer.socket, TIMEOUT_S)
    try:
        connection.request(method, path, body, {"X-Registry-Auth": "e30="})  # type: ignore[arg-type]
        response = connection.getresponse()
        answer = response.read()
        if response.status >= 300 or b'"error"' in answer[-4096:]:
            raise RuntimeError(f"{method} {path}: {response.status} {answer[-500:].decode()}")
        return answer
    finally:
        connection.close()


def _pull(peer: Peer, name: str) -> float:
    return timed(partial(_call, peer, "POST", f"/images/create?fromImage={name}"))


def _fresh_pull(peer: Peer, name: str) -> float:
    with contextlib.suppress(RuntimeError):
        _call(peer, "DELETE", f"/images/{name}?force=1")
    return _pull(peer, name)


def _skopeo(name: str, place: Path) -> float:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    started = time.perf_counter()
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{place}/layout:1"]
    subprocess.run(copy, check=True)
    unpack = ["umoci", "unpack", "--image", f"{place}/layout:1", f"{place}/bundle"]
    subprocess.run(unpack, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def _push(peer: Peer, name: str, numbers: Iterator[int]) -> float:
    # A registry of the name's own host mounts what it has: another name for the host keeps it from that.
    registry = name.partition("/")[0].replace("127.0.0.1:", "localhost:")
    target = f"{registry}/{peer.name}/copy{next(numbers)}"
    _call(peer, "POST", f"/images/{name}/tag?repo={target}&tag=1")
    try:
        return timed(partial(_call, peer, "POST", f"/images/{target}/push?tag=1"))
    finally:
        _call(peer, "DELETE", f"/images/{target}:1")


def _fresh_push(peer: Peer, name: str, archive: Path, numbers: Iterator[int]) -> float:
    """Both compress: what Wherry has compressed once it keeps."""
    _fresh_load(peer, name, archive)
    return _push(peer, name, numbers)


def _save(peer: Peer, name: str, archive: Path) -> float:
    connection = UnixConnection(peer.socket, TIMEOUT_S)
    started = time.perf_counter()
    try:
        connection.request("GET", f"/images/{name}/get")
        with archive.open("wb") as out:
            shutil.copyfileobj(connection.getresponse(), out, 1 << 20)
        return time.perf_counter() - started
    finally:
        connection.close()


def _fresh_load(peer: Peer, name: str, archive: Path) -> float:
    for image in json.loads(_call(peer, "GET", "/images/json")):  # others may have its layers
        if any("/bench/" in tag for tag in image["RepoTags"] or []):
            _call(peer, "DELETE", f"/images/{image['Id']}?force=1")
    with archive.open("rb") as body:
        return timed(partial(_call, peer, "POST", "/images/load", body))

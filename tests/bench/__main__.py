"""`make bench`: Wherry beside Docker Engine and runc, in one run; medians and ratios, never verdicts.

Peers that are not installed are left out. A dockerd is started on directories of its own for the time of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.fakes.images import busybox_image_tar
from tests.harness import RunningEngine, UnixConnection

MACHINE_ROUNDS = 4
NETNS = "wherry-bench"
Measure = Callable[[], float]  # one run, in seconds


class Api:
    """One keep-alive connection to an Engine API socket."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixConnection(path)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        self._connection.request(method, f"/v1.41{path}", data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode()}")
        return json.loads(answer) if answer.strip().startswith(b"{") else None

    def life(self, network: str) -> float:
        """A container's whole life: create, start, wait, remove."""
        started = time.perf_counter()
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}}
        id = self.call("POST", "/containers/create", body)["Id"]
        self.call("POST", f"/containers/{id}/start")
        self.call("POST", f"/containers/{id}/wait")
        self.call("DELETE", f"/containers/{id}")
        return time.perf_counter() - started


def docker_run(socket: Path) -> float:
    started = time.perf_counter()
    environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}"}
    subprocess.run(["docker", "run", "--rm", "busybox", "true"], env=environment, check=True)
    return time.perf_counter() - started


def runc_run(bundle: Path) -> float:
    started = time.perf_counter()
    subprocess.run(["runc", "run", "--bundle", str(bundle), "wherry-bench"], check=True)
    return time.perf_counter() - started


@contextlib.contextmanager
def dockerd(root: Path) -> Iterator[Path | None]:
    """A Docker Engine on directories and in a network namespace of its own, so that its packet rules stay there.

    None when it is not installed or does not start.
    """
    program = shutil.which("dockerd")
    if program is None:
        yield None
        return
    socket = root / "docker.sock"
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    # Not `ip netns exec`: it mounts a new /sys, without the cgroups.
    command = ["nsenter", f"--net=/run/netns/{NETNS}", program, "--data-root", str(root / "data")]
    command += ["--exec-root", str(root / "exec"), "--pidfile", str(root / "pid"), "-H", f"unix://{socket}"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield socket if _answers(socket, process) else None
        finally:
            process.terminate()
            process.wait()
            subprocess.run(["ip", "netns", "del", NETNS], check=True)


def _answers(socket: Path, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(300):
        with contextlib.suppress(OSError):
            Api(socket).call("GET", "/_ping")
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def runc_bundle(root: Path, archive: Path) -> Iterator[Path | None]:
    if shutil.which("runc") is None:
        yield None
        return
    bundle = root / "bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs/bin/true")
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/bin/true"]}
    (bundle / "config.json").write_text(json.dumps(spec))
    yield bundle


def medians(measures: dict[str, Measure], rounds: int) -> dict[str, float]:
    """Each measure's median in ms, taken in turn so that a noisy moment hits all alike; the first round is dropped."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            seconds = measure()
            if number:
                taken[name].append(seconds)
    return {name: statistics.median(times) * 1000 for name, times in taken.items()}


def show(title: str, measures: dict[str, Measure], rounds: int) -> None:
    print(f"\n{title} (median of {rounds})")
    figures = medians(measures, rounds)
    for name, ms in figures.items():
        ratio = "" if name == "wherry" else f"   wherry is {ms / figures['wherry']:.1f}x faster"
        print(f"  {name:12} {ms:8.2f} ms{ratio}", flush=True)


def memory(engine: RunningEngine) -> None:
    print("\nmemory, resident, after the runs")
    for name, pid in (("engine", engine.process.pid), ("launcher", engine.launcher_pid())):
        status = Path(f"/proc/{pid}/status").read_text()
        kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        print(f"  {name:12} {kib / 1024:8.1f} MiB")


def machine(root: Path, rounds: int) -> None:
    """From `wherry up --backend vm` to an engine that answers on the host; the first boot also makes the disk."""
    environment = {**os.environ, "XDG_DATA_HOME": str(root / "machines")}
    wherry = [str(Path(sys.executable).with_name("wherry")), "--backend", "vm"]
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([*wherry, "up"], env=environment, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
        subprocess.run([*wherry, "down"], env=environment, check=True, capture_output=True)
    print(f"\nmachine, `wherry up` to /_ping: first {times[0]:.1f} s, then median {statistics.median(times[1:]):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--machine", action="store_true", help="time the virtual machine too")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wherry-bench-")))
        archive = root / "busybox.tar"
        busybox_image_tar(archive, reference="busybox:latest")
        engine = RunningEngine(root / "wherry")
        stack.callback(engine.close)
        engine.load(archive)
        (root / "docker").mkdir()
        peer = stack.enter_context(dockerd(root / "docker"))
        bundle = stack.enter_context(runc_bundle(root, archive))
        sockets = {"wherry": engine.socket}
        if peer:
            environment = {**os.environ, "DOCKER_HOST": f"unix://{peer}"}
            subprocess.run(["docker", "load", "-q", "-i", str(archive)], env=environment, check=True)
            sockets["dockerd"] = peer
        else:
            print("no dockerd answers here: its columns are left out (on Debian: apt install docker.io)")
        for title, network in (("API create+start+wait+remove, no network", "none"), ("the same, bridge", "bridge")):
            show(title, {name: partial(Api(socket).life, network) for name, socket in sockets.items()}, rounds)
        runs: dict[str, Measure] = {name: partial(docker_run, socket) for name, socket in sockets.items()}
        if bundle:
            runs["runc alone"] = partial(runc_run, bundle)
        show("docker run --rm busybox true, bridge", runs, max(rounds // 2, 5))
        memory(engine)
        if arguments.machine:
            machine(root, MACHINE_ROUNDS)


if __name__ == "__main__":
    main()

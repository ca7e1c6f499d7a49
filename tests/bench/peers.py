"""The engines that are compared: Wherry, a Docker Engine of the run's own, and runc where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.images import busybox_image_tar
from tests.harness import RunningEngine, UnixConnection

NETNS = f"wherry-bench-{os.getpid()}"  # several may run


class Api:
    """One keep-alive connection to an Engine API socket."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixConnection(path, timeout_s=120)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer as JSON if it is an object or a list, else as bytes."""
        data = json.dumps(body).encode() if body is not None else None
        self._connection.request(method, f"/v1.41{path}", data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode()}")
        return json.loads(answer) if answer[:1] in (b"{", b"[") else answer

    def close(self) -> None:
        self._connection.close()

    def create(self, *args: str, network: str = "none", ports: Sequence[int] = ()) -> str:
        host: dict[str, Any] = {"NetworkMode": network}
        host["PortBindings"] = {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}] for port in ports}
        exposed: dict[str, Any] = {f"{port}/tcp": {} for port in ports}
        body = {"Image": "busybox", "Cmd": list(args), "HostConfig": host, "ExposedPorts": exposed}
        return str(self.call("POST", "/containers/create", body)["Id"])

    def start(self, *args: str, network: str = "none", ports: Sequence[int] = ()) -> str:
        id = self.create(*args, network=network, ports=ports)
        self.call("POST", f"/containers/{id}/start")
        return id

    def wait(self, id: str) -> None:
        self.call("POST", f"/containers/{id}/wait")

    def remove(self, id: str) -> None:
        self.call("DELETE", f"/containers/{id}?force=1")


@dataclass
class Peer:
    """An engine that answers; `netns` is the network namespace its published ports are in."""

    name: str
    socket: Path
    api: Api
    pid: int
    netns: str | None = None

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": f"unix://{self.socket}"}

    def memory_kb(self) -> float:
        """Of all its processes, containers' own left out: memory shared among several is divided among them."""
        return sum(_pss_kb(pid) for pids in self.parts().values() for pid in pids)

    def parts(self) -> dict[str, list[int]]:
        """Its processes, containers' own left out."""
        return {"engine": list(_tree(self.pid)), "launcher": list(_launchers(self.socket.parent))}

    def cgroup_parent(self) -> str:
        """Where its containers' cgroups are."""
        if self.netns:
            return "/docker"
        return f"/wherry-{self.api.call('GET', '/info')['ID']}"


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if _is_engines(int(child)):
                yield from _tree(int(child))


def _is_engines(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().startswith(("dockerd", "containerd", "docker-proxy", "python"))


def _launchers(run_dir: Path) -> Iterator[int]:
    """The launcher with its ready inits; shims, which init has adopted."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if os.fsencode(run_dir) in command and (b"launcher" in command or b"containerd-shim" in command):
                yield int(process.name)


def _pss_kb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextlib.contextmanager
def peers(root: Path) -> Iterator[list[Peer]]:
    """Wherry first, and dockerd if there is one; the image busybox is loaded into both."""
    archive = root / "busybox.tar"
    busybox_image_tar(archive, reference="busybox:latest")
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(_wherry(root / "wherry"))]
        if docker := stack.enter_context(dockerd(root / "docker")):
            found.append(docker)
        else:
            print("no dockerd answers here: its columns are left out (on Debian: apt install docker.io)")
        for peer in found:
            command = ["docker", "load", "-q", "-i", str(archive)]
            subprocess.run(command, env=peer.environment(), check=True, stdout=subprocess.DEVNULL)
        yield found


@contextlib.contextmanager
def _in_memory() -> Iterator[Path]:
    """For what lies below /run elsewhere: on most hosts that is memory, here it may not be."""
    with tempfile.TemporaryDirectory(prefix="wherry-bench-", dir="/dev/shm") as directory:
        yield Path(directory)


@contextlib.contextmanager
def _wherry(root: Path) -> Iterator[Peer]:
    root.mkdir()
    with _in_memory() as run_dir:
        (root / "run").symlink_to(run_dir)
        engine = RunningEngine(root)
        try:
            yield Peer("wherry", engine.socket, Api(engine.socket), engine.process.pid)
        finally:
            engine.close()


@contextlib.contextmanager
def dockerd(root: Path) -> Iterator[Peer | None]:
    """In a network namespace of its own, so that its packet rules stay there."""
    program = shutil.which("dockerd")
    if program is None:
        yield None
        return
    root.mkdir()
    with _in_memory() as run_dir, (root / "log").open("wb") as log:
        socket = run_dir / "docker.sock"
        subprocess.run(["ip", "netns", "add", NETNS], check=True)
        subprocess.run(["ip", "-n", NETNS, "link", "set", "lo", "up"], check=True)
        # Not `ip netns exec`: it mounts a new /sys, without the cgroups.
        command = ["nsenter", f"--net=/run/netns/{NETNS}", program, "--data-root", str(root / "data")]
        command += ["--exec-root", str(run_dir / "exec"), "--pidfile", str(run_dir / "pid"), "-H", f"unix://{socket}"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            answers = _answers(socket, process)
            yield Peer("dockerd", socket, Api(socket), process.pid, NETNS) if answers else None
        finally:
            process.terminate()
            process.wait()
            subprocess.run(["ip", "netns", "del", NETNS], check=True)


def _answers(socket: Path, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(300):
        with contextlib.suppress(OSError), contextlib.closing(Api(socket)) as api:
            api.call("GET", "/_ping")
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def runc_bundle(root: Path) -> Iterator[Path | None]:
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

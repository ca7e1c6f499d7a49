"""Backends, the engine's process, and the doctor, with directories and users that a test makes up."""

import grp
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.services import diagnostics, wherryd
from app.services.containers import RunOptions, run_detached
from app.services.engines import RemoteBackend, choose_backend, probe
from app.services.locations import NativeLocations
from app.services.native_engine import NativeBackend
from app.services.vm_engine import VmBackend
from tests.fakes.engine_server import FakeEngine
from vmbackend import MachineStatus


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "docker.sock") as fake:
        fake.add_image("alpine:latest")
        yield fake


def test_where_the_native_engine_lives() -> None:
    assert NativeLocations.from_environment(environ={}).host == "unix:///run/wherry/docker.sock"
    environ = {"WHERRY_DATA_ROOT": "/a", "WHERRY_RUN_DIR": "/b"}
    assert NativeLocations.from_environment(environ=environ) == NativeLocations(Path("/a"), Path("/b"))
    assert NativeLocations.from_environment("/c", None, environ) == NativeLocations(Path("/c"), Path("/b"))


def test_auto_is_native_on_linux() -> None:
    assert choose_backend("auto").name == "native"


def test_status_is_what_a_request_shows(engine: FakeEngine, tmp_path: Path) -> None:
    backend = NativeBackend(NativeLocations(tmp_path / "data", tmp_path))
    assert backend.status().state == "running"
    assert backend.up().state == "running", "an engine that runs is not started again"
    stopped = NativeBackend(NativeLocations(tmp_path / "data", tmp_path / "elsewhere"))
    assert (stopped.status().state, stopped.down().state) == ("stopped", "stopped")


def test_an_engine_that_hangs_is_unreachable(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.engines.PROBE_TIMEOUT_S", 0.05)
    engine.hang()
    status = probe(engine.host, "native")
    assert status.state == "unreachable"
    assert "did not answer in time" in status.reasons[0]


def test_a_remote_engine_is_left_alone(engine: FakeEngine, tmp_path: Path) -> None:
    assert RemoteBackend(engine.host).up().state == "running"
    with pytest.raises(UserError, match="not started by Wherry"):
        RemoteBackend(engine.host).down()
    with pytest.raises(UserError, match="does not answer"):
        RemoteBackend(f"unix://{tmp_path}/none").up()


def test_a_container_that_cannot_start_is_not_left_behind(engine: FakeEngine) -> None:
    client = EngineClient(engine.host)
    assert engine.find(run_detached(client, RunOptions("alpine", name="web"))).name == "web"
    with pytest.raises(UserError, match="no such file"):
        run_detached(client, RunOptions("alpine", command=("missing",)))
    assert [container.name for container in engine.containers.values()] == ["web"]
    with pytest.raises(UserError, match="no image 'ghost'"):
        run_detached(client, RunOptions("ghost"))


class FakeMachines:
    """What `vmbackend.MachineManager` offers, with a machine that remembers what was done to it."""

    def __init__(self) -> None:
        self.state = "stopped"
        self.accelerator: str | None = None

    def engine_host(self, name: str) -> str:
        return "unix:///nowhere/docker.sock"

    def status(self, name: str) -> MachineStatus:
        return MachineStatus(
            name,
            self.state,
            self.engine_host(name),
            accelerator=self.accelerator,
            accelerator_reason="/dev/kvm may not be opened" if self.accelerator else None,
            cpus=2,
            memory_mib=2048,
        )

    def examine(self, name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(subject="QEMU", verdict="fail", sentence="It is not there.", remedy="Install it.")]

    def start(self, name: str, on_phase: object = None) -> MachineStatus:
        self.state, self.accelerator = "running", "tcg"
        return self.status(name)

    def save(self, name: str) -> str | None:
        self.state = "saved"
        return None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> VmBackend:
    monkeypatch.setattr("vmbackend.MachineManager", FakeMachines)
    return VmBackend()


def test_a_virtual_machine_is_a_backend_too(machine: VmBackend) -> None:
    assert machine.status().state == "stopped"
    status = machine.up()
    assert (status.backend, status.state, status.detail["accelerator"]) == ("vm", "running", "tcg")
    assert "pid" not in status.detail, "what is not known is left out"
    assert machine.down().state == "saved"


def test_the_doctor_passes_on_what_a_machine_finds(machine: VmBackend) -> None:
    checks = {check.name: check for check in diagnostics.run_checks(machine, NativeLocations())}
    assert checks["QEMU"] == diagnostics.Check("QEMU", "fail", "It is not there.", "Install it.")


# the engine's process


def test_the_engine_is_told_where_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wherryd, "embedded_images", lambda: Path("/images"))
    monkeypatch.setattr(wherryd, "socket_group", lambda: "me")
    command = wherryd.daemon_command(NativeLocations(Path("/data"), Path("/run/w")))
    assert command[:6] == ["setsid", "--fork", sys.executable, "-m", "runtime", "daemon"]
    pairs = dict(zip(command[6::2], command[7::2], strict=True))
    assert pairs == {
        "--data-root": "/data",
        "--run-dir": "/run/w",
        "--host": "unix:///run/w/docker.sock",
        "--group": "me",
        "--embedded-images": "/images",
    }


@pytest.mark.parametrize(
    ("programs", "display", "terminal", "before"),
    [
        ({"sudo", "pkexec"}, True, True, ["sudo", "--"]),
        ({"sudo", "pkexec"}, True, False, ["pkexec", "--keep-cwd"]),
        ({"sudo"}, True, False, ["sudo", "-n", "--"]),
        ({"pkexec"}, True, True, ["pkexec", "--keep-cwd"]),
    ],
)
def test_becoming_root(
    monkeypatch: pytest.MonkeyPatch, programs: set[str], display: bool, terminal: bool, before: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(wherryd.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setenv("DISPLAY", ":0" if display else "")
    assert wherryd.elevated(["true"]) == [*before, "true"]


def test_nothing_to_become_root_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(wherryd.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"As root, in .* run: wherryd 'a b'"):
        wherryd.elevated(["wherryd", "a b"])


@pytest.mark.parametrize(
    ("primary", "members", "group"), [("me", [], "me"), ("users", ["me"], "wherry"), ("me", ["me"], "wherry")]
)
def test_whose_socket_it_is(monkeypatch: pytest.MonkeyPatch, primary: str, members: list[str], group: str) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="me", pw_gid=5))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=primary))
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_mem=members))
    assert wherryd.socket_group() == group


def test_a_shared_group_does_not_get_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="me", pw_gid=5))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name="users"))
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_mem=[]))
    with pytest.raises(UserError, match="sudo groupadd wherry"):
        wherryd.socket_group()


# the doctor


def test_the_doctor_looks_at_everything(engine: FakeEngine, tmp_path: Path) -> None:
    locations = NativeLocations(tmp_path / "data", tmp_path)
    checks = diagnostics.run_checks(NativeBackend(locations), locations)
    assert [check.name for check in checks][:4] == ["Engine", "Kernel", "Namespaces", "Cgroups"]
    assert checks[0].verdict == "ok"
    assert all(check.sentence.endswith(".") for check in checks)
    assert all(check.remedy or check.verdict != "fail" for check in checks)


@pytest.mark.parametrize(
    ("release", "verdict"), [("6.18.44-fc", "ok"), ("5.10.0-8-amd64", "ok"), ("5.4.0", "fail"), ("4.19", "fail")]
)
def test_kernel(release: str, verdict: str) -> None:
    assert diagnostics.kernel_version(release).verdict == verdict


def test_namespaces(tmp_path: Path) -> None:
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
        (tmp_path / kind).symlink_to(f"{kind}:[1]")
    check = diagnostics.namespaces(tmp_path)
    assert check.verdict == "fail" and "user" in check.sentence


def test_cgroups_of_both_versions(tmp_path: Path) -> None:
    table = tmp_path / "cgroups"
    table.write_text("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t2\t1\t1\npids\t3\t1\t0\n")
    for controller in ("cpu", "memory", "pids"):
        (tmp_path / controller).mkdir()
    first = diagnostics.cgroups(tmp_path, table)
    assert first.verdict == "warn" and "Version 1 without: pids" in first.sentence
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert diagnostics.cgroups(tmp_path, table).sentence.startswith("Version 2 with")


def test_overlay(tmp_path: Path) -> None:
    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tproc\n\text4\n")
    assert diagnostics.overlay(filesystems, tmp_path).verdict == "fail"
    (tmp_path / "modules.dep").write_text("kernel/fs/overlayfs/overlay.ko.zst:\n")
    assert diagnostics.overlay(filesystems, tmp_path).verdict == "ok"
    filesystems.write_text("nodev\toverlay\n")
    assert diagnostics.overlay(filesystems, tmp_path / "none").verdict == "ok"


@pytest.mark.parametrize(("free_gib", "verdict"), [(50, "ok"), (2, "warn"), (0.5, "fail")])
def test_disk_space_is_looked_up_where_the_data_will_be(tmp_path: Path, free_gib: float, verdict: str) -> None:
    check = diagnostics.disk_space(tmp_path / "not" / "yet", lambda place: int(free_gib * 2**30))
    assert check.verdict == verdict and str(tmp_path) in check.sentence


def test_whom_the_docker_command_talks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    ours = "unix:///run/wherry/docker.sock"
    assert diagnostics.other_docker(ours, tmp_path, docker_host=ours).verdict == "ok"
    other = diagnostics.other_docker(ours, tmp_path, docker_host="tcp://elsewhere:1")
    assert other.verdict == "warn" and f"export DOCKER_HOST={ours}" in other.remedy
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "desktop-linux"}')
    assert "desktop-linux" in diagnostics.other_docker(ours, tmp_path).sentence

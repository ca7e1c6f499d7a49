"""Directories of this computer in the containers of the machine, through the docker CLI."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.conftest import BootedMachine
from tests.vm.test_machine_docker_cli import docker
from tests.vm.test_machine_lifecycle import kill_hostagent

pytestmark = pytest.mark.vm

DEADLINE_S = 90


def wait_for(condition: Callable[[], object], what: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def shared(machine: BootedMachine, *shares: str) -> None:
    """Share these with the running machine, which needs no restart for it."""
    settings = replace(machine.manager.settings(machine.name), shares=shares)
    assert machine.manager.set(machine.name, settings) == ()
    paths = sorted(share.removesuffix(":ro") for share in shares)

    def mounted() -> bool:
        machine.manager.status(machine.name)
        now = machine.manager.shares(machine.name)
        return sorted(share["guest_path"] for share in now) == paths and all(share["mounted"] for share in now)

    wait_for(mounted, lambda: machine.manager.status(machine.name))


@pytest.fixture
def share(machine: BootedMachine, tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "a project"
    directory.mkdir()
    shared(machine, str(directory))
    yield directory
    shared(machine)


@pytest.mark.timeout(400)
def test_a_directory_is_there_at_its_own_path_with_owners_kept_and_changes_told(
    machine: BootedMachine, share: Path
) -> None:
    (share / "from host").write_text("hello\n")
    script = (
        "cat '/src/from host' && echo answer >/src/from-guest && mkdir /src/data && chown 999:999 /src/data && "
        "chmod 700 /src/data && stat -c '%u:%g %a' /src/data"
    )
    done = docker(machine, "run", "--rm", "-v", f"{share}:/src", "alpine", "sh", "-c", script)
    assert done.stdout.decode().splitlines() == ["hello", "999:999 700"], done
    assert (share / "from-guest").read_text() == "answer\n"
    assert (share / "data").stat().st_uid == os.getuid()
    assert stat.S_IMODE((share / "data").stat().st_mode) == 0o700
    again = docker(machine, "run", "--rm", "--user", "999", "-v", f"{share}:/src", "alpine", "touch", "/src/data/mine")
    assert again.returncode == 0, again

    watching = docker(
        machine, "run", "-d", "--name", "watching", "-v", f"{share}:/src", "alpine", "inotifyd", "-", "/src:ncdmyw"
    )
    assert watching.returncode == 0, watching

    def told(*events: str) -> Callable[[], bool]:
        return lambda: all(event in docker(machine, "logs", "watching").stdout.decode() for event in events)

    def logs() -> object:
        return docker(machine, "logs", "watching")

    try:
        # The host watches what a container binds soon after its start: a file is made until one is told of.
        made = 0

        def one_is_told() -> bool:
            nonlocal made
            made += 1
            (share / f"probe{made}").touch()
            return told("n\t/src\tprobe")()

        wait_for(one_is_told, logs)
        (share / "from host").write_text("longer than before\n")
        wait_for(told("c\t/src\tfrom host"), logs)
        (share / "from host").rename(share / "renamed")
        wait_for(told("m\t/src\tfrom host", "y\t/src\trenamed"), logs)
        (share / "renamed").unlink()
        wait_for(told("d\t/src\trenamed"), logs)
    finally:
        docker(machine, "rm", "-f", "watching")


@pytest.mark.timeout(300)
def test_a_share_comes_back_with_its_directory(machine: BootedMachine, share: Path) -> None:
    moved = share.with_name("moved")
    share.rename(moved)
    wait_for(lambda: any(str(share) in reason for reason in machine.manager.status(machine.name).reasons))
    moved.rename(share)
    wait_for(lambda: machine.manager.status(machine.name).state == "running")
    (share / "file").write_text("x")
    done = docker(machine, "run", "--rm", "-v", f"{share}:/src:ro", "alpine", "cat", "/src/file")
    assert done.stdout == b"x", done


@pytest.mark.timeout(600)
def test_open_files_go_on_after_a_kill_of_the_hostagent_and_after_a_save(machine: BootedMachine, share: Path) -> None:
    script = (
        "exec 3>/src/counted; i=0; while true; do i=$((i+1)); echo $i >&3; cp /src/asked /src/answer; sleep 0.2; done"
    )
    (share / "asked").touch()
    started = docker(machine, "run", "-d", "--name", "counting", "-v", f"{share}:/src", "alpine", "sh", "-c", script)
    assert started.returncode == 0, started

    def counted() -> list[int]:
        return [int(line) for line in (share / "counted").read_text().split()]

    def kill() -> None:
        kill_hostagent(machine)

    def save() -> None:
        assert machine.manager.save(machine.name) is None
        assert machine.manager.status(machine.name).state == "saved"

    try:
        wait_for((share / "counted").exists)
        for disturb in (kill, save):
            before = len(counted())
            wait_for(lambda before=before: len(counted()) > before)  # type: ignore[misc]
            disturb()
            status = machine.manager.start(machine.name)
            assert status.cold_boot_reason is None
            after = len(counted())
            wait_for(lambda after=after: len(counted()) > after)  # type: ignore[misc]
            assert counted() == list(range(1, len(counted()) + 1))
            (share / "asked").write_text(disturb.__name__)
            wait_for(lambda name=disturb.__name__: (share / "answer").read_text() == name)  # type: ignore[misc]
    finally:
        machine.ensure_running()
        docker(machine, "rm", "-f", "counting")

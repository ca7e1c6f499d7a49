"""A create or start that fails, at whatever step, leaves nothing: each step is made to fail in turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.engine import Engine
from runtime.engine.settings import EngineSettings
from tests.harness import leftovers

CREATE_STEPS = [
    "runtime.content.snapshots.Snapshots.prepare",
    "runtime.engine.volumes.VolumeService.ensure",
    "runtime.engine.volumes.VolumeService.populate",
    "runtime.engine.bundle.resolve_user",
    "runtime.engine.store.Store.put",
]
START_STEPS = [
    "runtime.network.ipam.AddressPool.allocate",
    "runtime.network.sandbox.Sandbox.attach",
    "runtime.network.ports.PortAllocator.reserve",
    "runtime.network.nat.NatTable.publish",
    "runtime.engine.networks.publishing.Publisher.serve",
    "runtime.engine.spec_gen.generate",
    "runtime.engine.container_mounts.ContainerMounts.mount",
    "runtime.engine.container_mounts.ContainerMounts.resolved",
    "runtime.engine.bundle._write",
    "runtime.cgroups.v1.V1Cgroup.create",
    "runtime.cgroups.v1.V1Cgroup.join_paths",
    "runtime.engine.containers.open_log",
    "runtime.engine.processes._pipe",
    "runtime.engine.launcher_link.LauncherLink.run",
]
HOST_CONFIG: dict[str, Any] = {
    "Binds": ["/data-volume"],
    "PortBindings": {"80/tcp": [{}], "53/udp": [{"HostIp": "127.0.0.1"}]},
    "Memory": 64 << 20,
}
CONFIG = {"Image": "busybox", "Cmd": ["sleep", "60"], "User": "www-data", "Volumes": {"/anonymous": {}}}


class Injected(OSError):
    pass


def fail(*arguments: Any, **options: Any) -> Any:
    raise Injected(5, "injected")


def picture(settings: EngineSettings) -> dict[str, Any]:
    """What must be the same before and after."""
    rules = subprocess.run(
        ["nft", "list", "table", "ip", settings.nft_table], capture_output=True, text=True, check=True
    )
    places = [settings.containers_dir, settings.data_root / "snapshots", settings.volumes_dir]
    return {
        "directories": sorted(str(path) for place in places for path in place.iterdir()),
        "cgroups": sorted(map(str, Path("/sys/fs/cgroup").glob(f"*{settings.cgroup_parent}/*"))),
        "published": [line for line in rules.stdout.splitlines() if "elements" in line],
        "sockets": sum(link.startswith("socket:") for link in _fds()),
        "pipes": sum(link.startswith("pipe:") for link in _fds()),
    }


def _fds() -> list[str]:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # another thread's, closed meanwhile
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return links


async def scenario(settings: EngineSettings, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Engine(settings) as engine:
        with archive.open("rb") as stream:
            engine.images.load(stream)

        async def create_and_start() -> None:
            container, _ = await engine.containers.create("", CONFIG, HOST_CONFIG, {})
            try:
                await engine.containers.start(container)
            finally:
                await engine.control.remove(container, force=True, volumes=True)
                await engine.containers.settle()

        await create_and_start()
        for pool in engine.networks._pools.values():
            await asyncio.to_thread(pool.wait_full, 10)
        before = picture(settings)
        for step in CREATE_STEPS + START_STEPS:
            with monkeypatch.context() as patched:
                patched.setattr(step, fail)
                with pytest.raises(Injected):
                    await create_and_start() if step in START_STEPS else await engine.containers.create(
                        "", CONFIG, HOST_CONFIG, {}
                    )
            for pool in engine.networks._pools.values():
                await asyncio.to_thread(pool.wait_full, 10)
            assert picture(settings) == before, step
        await create_and_start()
        await engine.shutdown()


def test_every_step_undoes_the_ones_before(
    tmp_path: Path, busybox_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineSettings(tmp_path / "data", tmp_path / "run")
    asyncio.run(scenario(settings, busybox_archive, monkeypatch))
    assert leftovers(settings.instance, settings.data_root) == []

"""QEMU without a guest: its monitor, its forwards, and how its end is told."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from vmbackend import host
from vmbackend.errors import StartFailed
from vmbackend.forward.ports import PortForwards, PublishedPort
from vmbackend.machine.store import ProcessRecord
from vmbackend.qemu.locate import locate_qemu
from vmbackend.qemu.process import QemuProcess
from vmbackend.qemu.qmp import Monitor, MonitorError


def argv(address: str) -> list[str]:
    program = locate_qemu(host.machine_arch()).system
    return [
        *(str(program), "-S", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "microvm", "-accel", "tcg", "-m", "64M"),
        *("-chardev", f"socket,id=qmp,path={address.removeprefix('unix:')}", "-mon", "chardev=qmp,mode=control"),
        *("-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-device,netdev=net0"),
    ]


async def start(directory: Path, undo: AsyncExitStack) -> tuple[QemuProcess, Monitor]:
    listener = host.bind_local(directory / "qmp.sock")
    undo.callback(listener.close)
    process = await QemuProcess.spawn(argv(host.address_of(listener)), directory / "qemu.log")
    undo.push_async_callback(process.wait)
    undo.callback(process.kill)
    monitor = await Monitor.accept(listener)
    undo.push_async_callback(monitor.close)
    return process, monitor


def test_qemu_connects_to_us_and_tells_the_port_it_picked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as undo:
            process, monitor = await start(tmp_path, undo)
            port = await monitor.forwarded_port(22)
            socket.create_connection(("127.0.0.1", port), 5).close()
            with pytest.raises(MonitorError, match="no port to the guest's port 23"):
                await monitor.forwarded_port(23)
            process.record(tmp_path / "qemu.json", {})
            record = ProcessRecord.read(tmp_path / "qemu.json")
            assert record is not None and record.is_alive()
            await monitor.execute("quit")
            assert await process.wait() == 0
            assert not record.is_alive()
            with pytest.raises(MonitorError):
                await monitor.execute("query-status")

    asyncio.run(scenario())


def test_published_ports_are_really_offered_and_taken_ones_explained(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as undo:
            _, monitor = await start(tmp_path, undo)
            taken = host.listen_tcp("127.0.0.1", 0)
            undo.callback(taken.close)
            free = host.listen_tcp("127.0.0.1", 0)
            port = free.getsockname()[1]
            free.close()
            forwards = PortForwards(monitor, "net0", "10.0.2.15")
            undo.push_async_callback(forwards.stop)
            wanted = {PublishedPort("tcp", address, port, 80) for address in ("127.0.0.1", "::1")}
            await forwards.replace({*wanted, PublishedPort("tcp", "127.0.0.1", taken.getsockname()[1], 80)})
            for address in ("127.0.0.1", "::1"):
                socket.create_connection((address, port), 5).close()
            assert set(forwards.active) == wanted
            assert "uses it" in forwards.problems[0]
            await forwards.replace(set())
            for address in ("127.0.0.1", "::1"):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((address, port), 5)
            assert (await monitor.human("info usernet")).count("HOST_FORWARD") == 1

    asyncio.run(scenario())


def test_how_qemu_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        program = str(locate_qemu(host.machine_arch()).system)
        process = await QemuProcess.spawn([program, "-machine", "nonsense"], tmp_path / "qemu.log")
        words = process.describe_end(await process.wait())
        assert (
            words.startswith("QEMU ended with code 1: ")
            and "unsupported machine type" in (tmp_path / "qemu.log").read_text()
        )
        with pytest.raises(StartFailed, match="QEMU ended at once"):
            process.record(tmp_path / "qemu.json", {})
        async with AsyncExitStack() as undo:
            process, _ = await start(tmp_path, undo)
            process.kill()
            assert process.describe_end(await process.wait()) == "QEMU was killed by signal 9"

    asyncio.run(scenario())

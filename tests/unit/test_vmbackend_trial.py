"""An image that is new to a machine, from its choice to its success or failure, without a guest."""

import asyncio
from pathlib import Path

import pytest

from tests.fakes.guest_images import edit_contract, make_guest_image
from vmbackend import MachineError, MachineManager, MachineSettings, UpdateEnded, UpdateStarted, host
from vmbackend.errors import GuestUnreachable
from vmbackend.machine import trial as trial_module
from vmbackend.machine.events import EventHub
from vmbackend.machine.guest import EngineEnds, Guest
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.requirements import Unmet
from vmbackend.machine.trial import Trial


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    make_guest_image(tmp_path / "image", "1", arch=host.machine_arch())
    settings = MachineSettings(image_dir=str(tmp_path / "image"), accelerator="tcg", disk_gib=1)
    MachineManager(tmp_path / "machines").create("m", settings)
    return MachinePaths(tmp_path / "machines" / "m")


def test_a_new_image_is_tried_and_gone_back_from(paths: MachinePaths, tmp_path: Path) -> None:
    async def run() -> None:
        events = EventHub()
        trial = Trial(paths, events)
        first = await trial.prepare(keep_current=False)
        assert not trial.running and first.image.directory.parent == paths.images
        await trial.succeed()
        edit_contract(tmp_path / "image", version="2")
        assert (await trial.prepare(keep_current=True)).image == first.image
        with events.watch() as told:
            second = await trial.prepare(keep_current=False)
            assert trial.running and second.image.version == "2"
            assert (await trial.prepare(keep_current=False)).image == second.image, "tried again"
            assert [trial.may_try_again() for _ in range(3)] == [True, True, False]
            adopted = Trial(paths, events)
            await adopted.adopt(first)
            assert not adopted.running
            await adopted.adopt(second)
            assert adopted.running, "the hostagent that tried it was killed"
            paths.console_log.write_text("Kernel panic - not syncing: x\n")
            assert "Kernel panic - not syncing: x." in await trial.fail("The guest reset itself")
            assert not trial.running and trial.started is None
            assert (await trial.prepare(keep_current=False)).image == first.image
            started, ended = told.get_nowait(), told.get_nowait()
        assert started == UpdateStarted(second.image.label, first.image.label)
        assert isinstance(ended, UpdateEnded) and not ended.succeeded and "Kernel panic" in ended.reason
        edit_contract(tmp_path / "image", version="3")
        third = await trial.prepare(keep_current=False)
        with events.watch() as told:
            await trial.succeed()
            assert told.get_nowait() == UpdateEnded(third.image.label, succeeded=True)
        assert not trial.running

    asyncio.run(run())


def test_what_cannot_be_noted_or_undone_is_said(paths: MachinePaths, tmp_path: Path) -> None:
    async def run() -> None:
        trial = Trial(paths, EventHub())
        await trial.prepare(keep_current=False)
        edit_contract(tmp_path / "image", version="2")
        await trial.prepare(keep_current=False)
        record = paths.image_record.read_bytes()
        paths.image_record.write_text("{")
        with pytest.raises(Unmet, match="That it serves cannot be noted"):
            await trial.succeed()
        with pytest.raises(MachineError, match=r"2 \(.*and going back failed: .*; starting the machine again goes on"):
            await trial.fail("x")
        paths.image_record.write_bytes(record)
        assert (await Trial(paths, EventHub()).prepare(keep_current=False)).image.version == "1"

    asyncio.run(run())


def test_a_damaged_image_of_the_machines_own_is_taken_anew(paths: MachinePaths) -> None:
    async def run() -> None:
        trial = Trial(paths, EventHub())
        image = (await trial.prepare(keep_current=False)).image
        for content in (b"xyz", b"too long"):
            image.system.unlink()
            image.system.write_bytes(content)
            again = (await trial.prepare(keep_current=False)).image
            assert again.system.read_bytes() == b"sss" and again.digest == image.digest

    asyncio.run(run())


def test_who_cancels_waits_for_the_end_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        begun, go_on, ended = asyncio.Event(), asyncio.Event(), False
        loop = asyncio.get_running_loop()

        def step() -> None:
            nonlocal ended
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            ended = True

        task = asyncio.create_task(trial_module._to_its_end(step))
        await begun.wait()
        task.cancel()
        loop.call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(run())


def test_an_engine_that_keeps_ending_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        guest = object.__new__(Guest)
        guest._engine_ends = EngineEnds()
        answers = asyncio.Event()

        async def wait_engine(self: Guest) -> None:
            await answers.wait()

        monkeypatch.setattr(Guest, "wait_engine", wait_engine)
        guest._engine_ends.note()
        guest._engine_ends.note()
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, guest._engine_ends.note)
        with pytest.raises(GuestUnreachable, match="ends as soon as it is started"):
            await guest.wait_new_engine()
        answers.set()
        await guest.wait_engine()

    asyncio.run(run())

"""Settings, names, states, records and requirements of a machine."""

import asyncio
import dataclasses
import json
import os
import stat
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vmbackend import host
from vmbackend.errors import (
    GuestUnreachable,
    InvalidSettings,
    MachineError,
    MachineNotFound,
    SnapshotRefused,
    error_of_kind,
)
from vmbackend.machine import held, saved
from vmbackend.machine.config import _RULES, MachineSettings, settings_from_json, settings_to_json
from vmbackend.machine.events import (
    ForwardAdded,
    MachineEvent,
    PhaseEntered,
    StateChanged,
    UpdateEnded,
    UpdateStarted,
    event_from_json,
    event_to_json,
)
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.requirements import EMULATION_FACTOR, Requirement, Unmet, meet
from vmbackend.machine.setting_keys import SETTING_KEYS, changed_settings, setting_texts
from vmbackend.machine.states import TRANSITIONS, next_state
from vmbackend.machine.status import MachineStatus
from vmbackend.machine.store import MachineStore, ProcessRecord
from vmbackend.machine.usage import MachineUsage, usage_from
from vmbackend.manager import MachineManager
from vmbackend.qemu.disks import ensure_data_disk
from vmbackend.qemu.locate import locate_qemu
from vmbackend.qemu.migration import _uri, can_migrate

FILE = Path("/m/settings.json")


def test_settings_survive_the_file() -> None:
    settings = MachineSettings(cpus=3, memory_mib=512, disk_gib=9, accelerator="tcg", image_dir="/i")
    assert settings_from_json(settings_to_json(settings), FILE) == settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not readable"),
        ("[]", "not readable"),
        ("{}", "not readable"),
        ('{"schema": 3}', "has schema 3"),
        ('{"schema": 2, "dns": ["one"]}', "`dns` is ('one',)"),
        ('{"schema": 2, "dns": "1.1.1.1"}', "`dns` is '1.1.1.1'"),
        ('{"schema": 2, "http_proxy": "proxy:3128"}', "`http_proxy` is 'proxy:3128'"),
        ('{"schema": 2, "no_proxy": "a\\nb"}', "`no_proxy` is"),
        ('{"schema": 2, "subnet": "8.8.8.0/24"}', "`subnet` is '8.8.8.0/24'"),
        ('{"schema": 2, "subnet": "10.0.2.0/30"}', "`subnet` is '10.0.2.0/30'"),
        ('{"schema": 2, "idle_pause_s": -1}', "`idle_pause_s` is -1"),
        ('{"schema": 2, "save_on_stop": 1}', "`save_on_stop` is 1"),
        ('{"schema": 2, "cpus": true}', "`cpus` is True"),
        ('{"schema": 2, "shares": [""]}', "`shares` is"),
        ('{"schema": 1, "cpu": 1}', "unknown setting `cpu`"),
        ('{"schema": 1, "cpus": 0}', "`cpus` is 0"),
        ('{"schema": 1, "cpus": "2"}', "`cpus` is '2'"),
        ('{"schema": 1, "memory_mib": 100}', "`memory_mib` is 100"),
        ('{"schema": 1, "accelerator": "xen"}', "`accelerator` is 'xen'"),
        ('{"schema": 1, "publish_address": "localhost"}', "`publish_address` is 'localhost'"),
    ],
)
def test_settings_that_cannot_be_used_are_named_with_their_file(text: str, says: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        settings_from_json(text, FILE)
    assert says in str(raised.value) and str(FILE) in str(raised.value)


def test_a_file_of_schema_1_is_brought_up_to_date() -> None:
    old = '{"schema": 1, "cpus": 3, "memory_mib": 512, "disk_gib": 9, "publish_address": "0.0.0.0"}'
    settings = settings_from_json(old, FILE)
    assert settings == MachineSettings(cpus=3, memory_mib=512, disk_gib=9, publish_address="0.0.0.0")
    assert json.loads(settings_to_json(settings))["schema"] == 2


def test_every_setting_has_a_key_and_a_rule() -> None:
    """A setting without one could be neither changed nor relied on."""
    names = [field.name for field in dataclasses.fields(MachineSettings)]
    assert [key.field for key in SETTING_KEYS.values()] == names
    assert list(_RULES) == names


def test_settings_as_a_person_writes_them() -> None:
    settings = changed_settings(
        MachineSettings(),
        {
            "memory": "4G",
            "swap": "512M",
            "dns": "1.1.1.1, 9.9.9.9",
            "shares": "~,/data set:ro",
            "start_at_login": "yes",
            "subnet": "192.168.77.0/24",
            "http_proxy": "http://user:pass@proxy.example.com:3128",
        },
    )
    assert (settings.memory_mib, settings.swap_mib, settings.start_at_login) == (4096, 512, True)
    assert (settings.dns, settings.shares) == (("1.1.1.1", "9.9.9.9"), ("~", "/data set:ro"))
    assert changed_settings(MachineSettings(), setting_texts(settings)) == settings
    assert settings_from_json(settings_to_json(settings), FILE) == settings


def test_sockets_move_when_the_machines_folder_is_too_deep(tmp_path: Path) -> None:
    shallow = MachinePaths(Path("/m/default"))
    assert shallow.engine_socket == Path("/m/default/docker.sock")
    deep = MachinePaths(tmp_path / ("d" * 100) / "default")
    assert len(os.fsencode(deep.console_socket)) <= 103
    assert deep.control_socket.parent == deep.engine_socket.parent != deep.directory
    other = MachinePaths(tmp_path / ("e" * 100) / "default")
    assert other.engine_socket != deep.engine_socket


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "A", "x" * 33, "ü"])
def test_a_name_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        MachineStore(tmp_path).paths(name)


def test_saved_settings_are_private_and_listed(tmp_path: Path) -> None:
    store = MachineStore(tmp_path)
    with pytest.raises(MachineNotFound, match="no machine `one`"):
        store.load("one")
    store.save("one", MachineSettings(cpus=1))
    assert store.names() == ["one"]
    assert store.load("one").cpus == 1
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "one" / "settings.json").stat().st_mode) == 0o600


def test_a_reused_pid_is_not_the_recorded_process(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = ProcessRecord.of(os.getpid(), {"port": 1})
    assert record is not None
    record.write(path)
    assert ProcessRecord.read(path) == record and record.is_alive()
    path.write_text(json.dumps({"pid": os.getpid(), "start_time": record.start_time - 1, "details": {}}))
    stale = ProcessRecord.read(path)
    assert stale is not None and not stale.is_alive()
    path.write_text('{"pid": 1')
    assert ProcessRecord.read(path) is None


def test_every_state_can_be_reached_and_left() -> None:
    inside = {state for state, _ in TRANSITIONS} - {"stopped"}
    assert inside <= set(TRANSITIONS.values())
    assert next_state("running", "stop") == "stopping"
    assert next_state("running", "start") is None


def test_status_survives_the_control_socket() -> None:
    status = MachineStatus("one", "degraded", "unix:///s", reasons=("a", "b"), pid=7)
    assert MachineStatus.from_json(json.loads(json.dumps(status.to_json()))) == status


@pytest.mark.parametrize(
    "event",
    [
        StateChanged("degraded", ("a", "b")),
        PhaseEntered("ssh"),
        ForwardAdded("tcp", "0.0.0.0", 80),
        UpdateStarted("2 (a)", "1 (b)"),
        UpdateEnded("2 (a)", False, "c"),
    ],
)
def test_events_survive_the_control_socket(event: MachineEvent) -> None:
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


def test_an_event_of_a_newer_hostagent_is_passed_over() -> None:
    assert event_from_json({"kind": "Invented", "what": 1}) is None


def test_events_of_a_machine_that_is_off(tmp_path: Path) -> None:
    with MachineManager(tmp_path).events("one") as events:
        assert list(events) == [StateChanged("absent")]
    with MachineManager(tmp_path).events("one") as events:
        events.close()
        assert list(events) == []


def test_errors_survive_the_control_socket() -> None:
    assert isinstance(error_of_kind("GuestUnreachable", "x"), GuestUnreachable)


def test_an_unmet_requirement_says_what_and_where_to_look() -> None:
    requirement = Requirement("ssh", 0.01, "look at `{log}`")

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Unmet, match=r"`ssh` was not met within 0 s; look at `/c\.log`"):
        asyncio.run(meet(requirement, never(), False, log="/c.log"))


def test_a_failed_requirement_gives_its_reason_at_once() -> None:
    async def fail(error: Exception) -> None:
        raise error

    requirement = Requirement("ssh", 60, "look")
    with pytest.raises(Unmet, match=r"^The key is wrong; make another\.$"):
        asyncio.run(meet(requirement, fail(GuestUnreachable("The key is wrong; make another.")), True))
    with pytest.raises(Unmet, match=r"No space left on device; look\.$"):
        asyncio.run(meet(requirement, fail(OSError(28, "No space left on device")), True))


def test_emulation_gets_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines_s = []

    def timeout(deadline_s: float) -> AsyncExitStack:
        deadlines_s.append(deadline_s)
        return AsyncExitStack()

    async def work() -> int:
        return 1

    async def meet_both() -> None:
        for emulated in (False, True):
            assert await meet(Requirement("x", 2, ""), work(), emulated) == 1

    monkeypatch.setattr(asyncio, "timeout", timeout)
    asyncio.run(meet_both())
    assert deadlines_s == [2, 2 * EMULATION_FACTOR]


def test_a_failed_try_gives_the_next_one_more_time() -> None:
    async def slow() -> int:
        await asyncio.sleep(0.05)
        return 1

    requirement = Requirement("x", 0.01, "")
    with pytest.raises(Unmet):
        asyncio.run(meet(requirement, slow(), False))
    assert asyncio.run(meet(requirement, slow(), False, 9)) == 1


def test_a_machine_that_was_never_made_is_absent(tmp_path: Path) -> None:
    manager = MachineManager(tmp_path)
    status = manager.status("default")
    assert status.state == "absent" and status.engine_host == manager.engine_host("default")
    assert manager.list() == []
    manager.stop("default")
    assert list(tmp_path.iterdir()) == []


def test_a_stale_record_means_stopped(tmp_path: Path) -> None:
    MachineStore(tmp_path).save("one", MachineSettings())
    for name in ("hostagent.json", "qemu.json"):
        (tmp_path / "one" / name).write_text(json.dumps({"pid": os.getpid(), "start_time": 1, "details": {}}))
    assert MachineManager(tmp_path).status("one").state == "stopped"


def test_a_saved_state_is_for_one_guest_on_one_disk_and_for_once(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    paths.data_disk.write_bytes(b"disk")
    facts = {"QEMU": "7", "the setting `cpus`": "2"}

    def save() -> saved.SavedState:
        saved.draft(paths.saved_state).write_bytes(b"state")
        saved.make_durable(saved.draft(paths.saved_state))
        saved.keep(paths, facts)
        state = saved.read(paths)
        assert isinstance(state, saved.SavedState)
        return state

    assert saved.read(paths) is None
    state = save()
    assert state.obstacle(paths, facts) is None
    assert state.obstacle(paths, {**facts, "the setting `cpus`": "4"}) == (
        "the setting `cpus` changed since it was saved"
    )
    assert state.obstacle(paths, {**facts, "the machine's hardware": "x"}) == (
        "the machine's hardware changed since it was saved"
    )
    os.utime(paths.data_disk, (1, 1))
    assert state.obstacle(paths, facts) == "the machine's disk was changed since it was saved"
    saved.disk_changed_harmlessly(paths, state)
    state = save()
    paths.saved_state.unlink()
    assert state.obstacle(paths, facts) == "its file is gone"

    save()
    saved.consume(paths)
    assert saved.read(paths) is None, "nobody starts from it a second time"
    saved.discard(paths)
    assert {path.name for path in tmp_path.iterdir()} == {"data.qcow2"}


def test_a_held_guest_is_for_any_number_of_starts_of_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = MachinePaths(tmp_path)
    facts = {"the guest image": "1"}
    monkeypatch.setattr(held, "facts_to_resume", lambda paths, prepared: dict(facts))
    image: Any = SimpleNamespace(hold_cmdline="hold")
    prepared: Any = SimpleNamespace(
        image=image, accelerator=SimpleNamespace(emulated=True), settings=MachineSettings(disk_gib=8)
    )
    assert held.plan(paths, prepared) == "hold"
    saved.draft(paths.held_state).write_bytes(b"state")
    held._keep(paths, prepared)
    assert [held.plan(paths, prepared) for _ in range(2)] == ["held", "held"]
    prepared.settings = MachineSettings(disk_gib=9)
    assert held.plan(paths, prepared) == "hold"
    assert list(tmp_path.iterdir()) == [], "what is of no use takes no room"
    held.give_up(paths, prepared, "it did not answer")
    assert held.plan(paths, prepared) == "boot"
    facts["the guest image"] = "2"
    assert held.plan(paths, prepared) == "hold"
    prepared.accelerator.emulated = False
    assert held.plan(paths, prepared) == "boot"
    prepared.accelerator.emulated, image.hold_cmdline = True, ""
    assert held.plan(paths, prepared) == "boot"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "facts": {}, "disk": "", "x": 1}'])
def test_a_record_that_cannot_be_read_says_so(record: str, tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    paths.saved_record.write_text(record)
    assert "its record is not readable" in str(saved.read(paths))
    paths.saved_record.write_text('{"schema": 99}')
    assert saved.read(paths) == "another version of Wherry saved it"


def test_a_machine_with_a_saved_state_is_saved_until_it_is_reset(tmp_path: Path) -> None:
    manager = MachineManager(tmp_path)
    manager.create("one", MachineSettings())
    (tmp_path / "one" / "saved.json").write_text("{}")
    assert manager.status("one").state == "saved"
    manager.reset("one")
    assert manager.status("one").state == "stopped"
    with pytest.raises(MachineError, match="`one` is not running"):
        manager.pause("one")


def test_what_a_machine_uses() -> None:
    usage = usage_from("1000\n4000\n2e9\n8.5e9\n", 7, None)
    assert usage == MachineUsage(1000, 4000, 2_000_000_000, 8_500_000_000, 7, None)
    assert MachineUsage.from_json(json.loads(json.dumps(usage.to_json()))) == usage
    with pytest.raises(ValueError):
        usage_from("1\n2\n", None, None)


def test_how_qemu_reads_and_writes_a_state() -> None:
    path = Path("/a folder/it's.state")
    assert _uri((7, 2, 22), path, "cat x") == "exec:cat x"
    assert _uri((8, 2, 0), path, "cat x") == "file:/a folder/it's.state"
    assert can_migrate((7, 2, 0))


def test_snapshots_of_a_machine_that_is_off(tmp_path: Path) -> None:
    manager = MachineManager(tmp_path)
    manager.create("one", MachineSettings())
    paths = MachinePaths(tmp_path / "one")
    assert manager.snapshots("one") == []
    with pytest.raises(SnapshotRefused, match="no disk yet"):
        manager.take_snapshot("one", "first")
    ensure_data_disk(locate_qemu(host.machine_arch()).img, paths.data_disk, 1)
    saved.draft(paths.saved_state).write_bytes(b"state")
    saved.keep(paths, {})
    manager.take_snapshot("one", "first")
    assert [snapshot.name for snapshot in manager.snapshots("one")] == ["first"]
    state = saved.read(paths)
    assert isinstance(state, saved.SavedState)
    assert state.obstacle(paths, {}) is None, "a saved guest does not see the snapshot"
    with pytest.raises(SnapshotRefused, match="`first` already"):
        manager.take_snapshot("one", "first")
    for name in ("", "-x", "a b", "x" * 65):
        with pytest.raises(SnapshotRefused, match="cannot name a snapshot"):
            manager.take_snapshot("one", name)
    assert manager.restore_snapshot("one", "first") is None
    assert manager.status("one").state == "stopped", "the saved guest belongs to the disk that is no more"
    manager.remove_snapshot("one", "first")
    with pytest.raises(SnapshotRefused, match="has no snapshot `first`"):
        manager.restore_snapshot("one", "first")

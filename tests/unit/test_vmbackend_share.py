"""Shares without a kernel: plans, node numbers, owners' notes, what is told of changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from watchdog.events import DirMovedEvent, FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent

from vmbackend.errors import InvalidSettings
from vmbackend.share import wire
from vmbackend.share.echo import Change
from vmbackend.share.keeper import bound_sources
from vmbackend.share.nodes import NodeTable
from vmbackend.share.owners import Owner, decode, encode, mode_on_disk
from vmbackend.share.plan import Share, guest_path_of, plan_shares
from vmbackend.share.server import ShareServer
from vmbackend.share.tree import Tree
from vmbackend.share.watch import change_of, coalesced, outermost

pytestmark = pytest.mark.unit

HOME = Path("/home/ann")
FILE, OTHER = (1, 10, 0o100000), (1, 11, 0o100000)


# --- plans


def test_home_is_shared_at_its_own_path() -> None:
    assert plan_shares(["~"], HOME, windows=False) == [Share(HOME, "/home/ann")]
    assert plan_shares(["~/work:ro"], HOME, windows=False) == [Share(HOME / "work", "/home/ann/work", True)]


@pytest.mark.parametrize(
    ("path", "in_guest"),
    [
        ("C:\\Users\\Ann Lee", "/c/Users/Ann Lee"),
        ("D:/data", "/d/data"),
        ("C:\\", "/c"),
    ],
)
def test_a_windows_path_is_below_its_drives_letter(path: str, in_guest: str) -> None:
    assert guest_path_of(path, windows=True) == in_guest


@pytest.mark.parametrize(
    ("path", "windows"),
    [("relative", False), ("/", False), ("/a/../b", False), ("\\\\server\\share", True), ("C:relative", True)],
)
def test_a_path_that_cannot_be_shared_is_refused(path: str, windows: bool) -> None:
    with pytest.raises(InvalidSettings, match="The share"):
        guest_path_of(path, windows)


def test_a_share_does_not_hide_the_machines_own_files() -> None:
    for path in ("/etc", "/usr/share", "/var/lib/wherry", "/tmp", "/root/x"):
        with pytest.raises(InvalidSettings, match="the machine's own"):
            plan_shares([path], HOME, windows=False)
    assert [share.guest_path for share in plan_shares(["/var/folders/ab"], HOME, False)] == ["/var/folders/ab"]
    assert plan_shares(["~"], Path("/root"), windows=False) == []


def test_a_share_inside_another_is_kept_only_when_its_access_differs() -> None:
    shares = plan_shares(["/data/a/b", "/data", "/data/a:ro", "/database"], HOME, windows=False)
    assert [str(share) for share in shares] == ["/data", "/database", "/data/a:ro", "/data/a/b"]
    assert [str(share) for share in plan_shares(["/x/y", "/x"], HOME, windows=False)] == ["/x"]


# --- node numbers


def test_a_file_keeps_its_number_when_renamed_and_has_one_for_all_its_names() -> None:
    table = NodeTable()
    node = table.meet(wire.ROOT_ID, b"a", FILE)
    assert table.meet(wire.ROOT_ID, b"b", FILE) is node
    table.move(wire.ROOT_ID, b"a", wire.ROOT_ID, b"c")
    assert table.meet(wire.ROOT_ID, b"c", FILE) is node
    assert table.path(node) == [b"c"]
    assert table.meet(wire.ROOT_ID, b"c", OTHER) is not node


def test_a_node_is_gone_when_the_guest_has_forgotten_every_reference() -> None:
    table = NodeTable()
    node = table.meet(wire.ROOT_ID, b"a", FILE)
    node.lookups = 3
    assert table.forget(node.number, 2) is None
    assert table.forget(node.number, 1) is node
    assert table.get(node.number) is None and table.named(wire.ROOT_ID, b"a") is None


def test_numbers_outlive_the_process_in_a_journal_also_one_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "nodes"
    table = NodeTable(journal)
    table.begin()
    folder = table.meet(wire.ROOT_ID, b"folder", (1, 5, 0o040000))
    file = table.meet(folder.number, b"\xff name\n", FILE)
    table.move(folder.number, b"\xff name\n", folder.number, b"moved")
    table.close()
    with journal.open("a") as stream:
        stream.write('[99,1,"')
    after = NodeTable(journal)
    after.take_over()
    taken = after.get(file.number)
    assert taken is not None and after.path(taken) == [b"folder", b"moved"]
    assert after.meet(wire.ROOT_ID, b"new", OTHER).number > file.number
    after.begin()
    assert after.get(file.number) is None and journal.read_text() == ""
    after.close()


# --- owners


def test_a_note_says_only_what_the_disk_does_not() -> None:
    plain = Owner(501, 20, 0o644)
    assert encode(plain, plain) is None
    assert encode(Owner(999, 999, 0o644), plain) == b"999:999"
    assert encode(Owner(501, 20, 0o400), plain) == b"501:20:400"
    assert decode(b"999:70:4755", plain) == Owner(999, 70, 0o4755)
    assert decode(b"999:70", plain) == Owner(999, 70, 0o644)
    assert decode(b"nonsense", plain) == plain


def test_the_user_can_always_tidy_up() -> None:
    assert mode_on_disk(0o4000, is_directory=False) == 0o600
    assert mode_on_disk(0o1777, is_directory=True) == 0o777
    assert mode_on_disk(0o050, is_directory=True) == 0o750


# --- requests no kernel would send


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"../../etc/passwd", b""])
def test_a_name_is_one_step_down_and_never_more(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "share").mkdir()
    server = ShareServer(Tree(tmp_path / "share"), read_only=False)
    body = memoryview(name + b"\0")
    for opcode in (wire.LOOKUP, wire.UNLINK, wire.RMDIR):
        answer = server.answer(wire.Request(opcode, 7, wire.ROOT_ID, 0, 0, 1, body))
        assert answer is not None
        _, error, unique = wire.OUT_HEADER.unpack_from(answer)
        assert error < 0 and unique == 7
    server.close()


def test_an_unknown_request_or_node_is_refused(tmp_path: Path) -> None:
    server = ShareServer(Tree(tmp_path), read_only=False)
    for opcode, node in ((9999, 1), (wire.GETATTR, 12345), (wire.READLINK, 77)):
        answer = server.answer(wire.Request(opcode, 1, node, 0, 0, 1, memoryview(bytes(64))))
        assert answer is not None and wire.OUT_HEADER.unpack_from(answer)[1] < 0
    server.close()


# --- changes


def test_watchdogs_events_are_changes_of_the_share() -> None:
    root = Path("/data")
    assert change_of(FileCreatedEvent("/data/a/f"), root) == Change("create", (b"a", b"f"))
    assert change_of(FileModifiedEvent("/data/f"), root) == Change("modify", (b"f",))
    assert change_of(FileMovedEvent("/data/f", "/data/g"), root) == Change("move", (b"f",), (b"g",))
    assert change_of(FileMovedEvent("/data/f", "/elsewhere/g"), root) == Change("delete", (b"f",))
    assert change_of(DirMovedEvent("/elsewhere/d", "/data/d"), root) == Change("mkdir", (b"d",), (), True)
    assert change_of(FileDeletedEvent("/elsewhere/f"), root) is None


def test_what_repeats_is_told_once() -> None:
    created, written = Change("create", (b"f",)), Change("modify", (b"f",))
    gone, moved = Change("delete", (b"f",)), Change("move", (b"f",), (b"g",))
    assert coalesced([created, written, written]) == [created]
    assert coalesced([written, written]) == [written]
    assert coalesced([created, written, gone]) == []
    assert coalesced([created, moved]) == [moved]
    assert coalesced([gone, created]) == [gone, created]


def test_only_the_outermost_directories_are_watched() -> None:
    assert outermost([Path("/a/b"), Path("/a"), Path("/ab"), Path("/a/b/c")]) == {Path("/a"), Path("/ab")}


def test_only_binds_are_watched() -> None:
    mounts = [
        {"Type": "bind", "Source": "/home/ann/x"},
        {"Type": "volume", "Source": "/var/lib/wherry/volumes/v/_data"},
    ]
    assert bound_sources([{"Mounts": mounts}, {}]) == ["/home/ann/x"]

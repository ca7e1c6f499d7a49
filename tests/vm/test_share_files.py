"""A share with a real kernel: the agent that runs in guests runs here, and mounts with this computer's FUSE.

What containers do to files is done through the mount (`guest`), and looked at from the other side (`host`).
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

import vmbackend.share
from vmbackend.share.channel import AgentAddress, AgentChannel
from vmbackend.share.plan import Share
from vmbackend.share.session import ShareSession
from vmbackend.share.watch import ChangeWatch

pytestmark = pytest.mark.vm

AGENT = Path(vmbackend.share.__file__).with_name("guest_agent.py")
DEADLINE_S = 30


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Port:
    """A virtio port's two ends: a raw terminal for the agent, and a stream as QEMU connects it."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.device = os.ttyname(self._slave)
        self._qemu: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def connect(self) -> socket.socket:
        """As for a hostagent that comes after another."""
        self._disconnect()
        ours, theirs = socket.socketpair()
        self._qemu = ours
        for carry in (self._to_guest, self._from_guest):
            self._threads.append(threading.Thread(target=carry, args=(ours,), daemon=True))
            self._threads[-1].start()
        return theirs

    def _to_guest(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := memoryview(stream.recv(65536)):
                while data:
                    data = data[os.write(self._master, data) :]

    def _from_guest(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self._qemu is stream:
                if select.select([self._master], [], [], 0.1)[0]:
                    stream.sendall(os.read(self._master, 65536))

    def close(self) -> None:
        self._disconnect()
        os.close(self._slave)
        os.close(self._master)

    def _disconnect(self) -> None:
        stream, self._qemu = self._qemu, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join()
        if stream is not None:
            stream.close()


@dataclass
class Mounted:
    host: Path
    guest: Path
    address: AgentAddress
    port: Port
    directory: Path
    channel: AgentChannel = field(init=False)
    session: ShareSession = field(init=False)

    def another_session(self) -> ShareSession:
        """As a hostagent's that starts anew, with nothing but the journal."""
        self.close()
        self.open(self.session.share)
        return self.session

    def close(self) -> None:
        self.channel.close()
        self.session.close()

    def open(self, share: Share) -> None:
        self.channel = AgentChannel(self.port.connect())
        self.channel.begin(self.address, lambda: None)
        self.session = ShareSession(share, self.directory / "nodes", self.channel)
        self.session.attach(self.address)


def _mounted(directory: Path, read_only: bool = False) -> Iterator[Mounted]:
    host, guest, state = directory / "host", directory / "guest", directory / "state"
    host.mkdir()
    port = Port()
    process = subprocess.Popen([sys.executable, "-S", "-s", "-E", str(AGENT), port.device, "127.0.0.1", str(state)])
    try:
        facts = state / "agent.json"
        wait_for(facts.exists)
        document = json.loads(facts.read_text())
        address = AgentAddress(document["port"], document["token"])
        mounted = Mounted(host, guest, address, port, directory)
        mounted.open(Share(host, str(guest), read_only))
        yield mounted
        address.ask("detach", path=str(guest), force=True)
        mounted.close()
    finally:
        process.kill()
        process.wait()
        port.close()
        subprocess.run(["umount", "-l", str(guest)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    yield from _mounted(tmp_path_factory.mktemp("share"))


@pytest.fixture
def here(mounted: Mounted, request: pytest.FixtureRequest) -> Mounted:
    """A folder of the test's own in the share."""
    name = request.node.name[:60]
    (mounted.host / name).mkdir()
    folder = copy.copy(mounted)
    folder.host, folder.guest = mounted.host / name, mounted.guest / name
    return folder


def test_owners_and_modes_are_kept_and_the_host_keeps_its_own(here: Mounted) -> None:
    data = here.guest / "pgdata"
    data.mkdir()
    os.chown(data, 999, 999)
    data.chmod(0o700)
    file = data / "base"
    file.write_text("x")
    os.chown(file, 999, 70)
    file.chmod(0o4400)
    seen = file.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (999, 70, 0o4400)
    really = (here.host / "pgdata/base").stat()
    assert (really.st_uid, stat.S_IMODE(really.st_mode)) == (os.getuid(), 0o600)
    assert (data.stat().st_uid, stat.S_IMODE(data.stat().st_mode)) == (999, 0o700)


def test_modes_are_the_hosts_own_where_they_can_be(here: Mounted) -> None:
    script = here.guest / "run.sh"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    assert stat.S_IMODE((here.host / "run.sh").stat().st_mode) == 0o755
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "ran\n"


def test_what_another_user_makes_is_theirs_and_may_not_be_touched_by_a_third(here: Mounted) -> None:
    here.guest.chmod(0o777)

    def as_user(uid: int, script: str) -> int:
        return subprocess.run(["sh", "-c", script], cwd=here.guest, user=uid, group=uid, check=False).returncode

    assert as_user(999, "umask 077; echo secret >mine; mkdir dir") == 0
    assert [(here.guest / name).stat().st_uid for name in ("mine", "dir")] == [999, 999]
    assert as_user(998, "cat mine 2>/dev/null") != 0
    assert as_user(998, "touch dir/x 2>/dev/null") != 0
    assert as_user(999, "cat mine >dir/copy") == 0
    assert (here.host / "mine").stat().st_uid == os.getuid()


def test_symlinks_are_kept_as_they_are_and_resolved_in_the_guest(here: Mounted) -> None:
    (here.host / "real").write_text("content")
    (here.host / "relative").symlink_to("real")
    (here.guest / "absolute").symlink_to("/etc/hostname")
    (here.guest / "dangling").symlink_to("nowhere")
    assert (here.guest / "relative").read_text() == "content"
    assert os.readlink(here.host / "absolute") == "/etc/hostname"
    assert os.readlink(here.host / "dangling") == os.readlink(here.guest / "dangling") == "nowhere"
    with pytest.raises(FileNotFoundError):
        (here.guest / "dangling").read_text()


def test_a_directory_turned_into_a_link_does_not_lead_out_of_the_share(here: Mounted, tmp_path: Path) -> None:
    """What the guest still knows as a directory is a link on the host now: nothing behind it is reached."""
    (tmp_path / "secret").write_text("not shared")
    inside = here.guest / "dir"
    inside.mkdir()
    descriptor = os.open(inside, os.O_RDONLY)
    try:
        here.session.tree.forget_directories()
        (here.host / "dir").rmdir()
        (here.host / "dir").symlink_to(tmp_path)
        with pytest.raises(OSError):
            os.open("secret", os.O_RDONLY, dir_fd=descriptor)
        with pytest.raises(OSError):
            os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    assert not (tmp_path / "made").exists()


def test_names_of_every_kind(here: Mounted) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names = [
        composed,
        decomposed,
        "Case",
        "case",
        "a" * 255,
        "with space",
        "new\nline",
        "\u6f22\u5b57",
        "-rf",
        "a:b*c?",
    ]
    for name in names:
        (here.guest / name).write_text(name)
    assert sorted(os.listdir(here.guest)) == sorted(os.listdir(here.host)) == sorted(names)
    assert all((here.host / name).read_text() == name for name in names)
    with pytest.raises(OSError) as raised:
        (here.guest / ("a" * 256)).write_text("")
    assert raised.value.errno == errno.ENAMETOOLONG
    raw = os.fsencode(here.guest) + b"/\xff\xfe"
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY))
    assert b"\xff\xfe" in os.listdir(os.fsencode(here.host))


def test_hard_links_are_one_file(here: Mounted) -> None:
    (here.guest / "one").write_text("x")
    os.link(here.guest / "one", here.guest / "two")
    one, two = (here.guest / "one").stat(), (here.guest / "two").stat()
    assert one.st_ino == two.st_ino and two.st_nlink == 2
    (here.guest / "one").unlink()
    (here.guest / "two").write_text("changed")
    assert (here.host / "two").read_text() == "changed"


def test_a_sparse_file_stays_sparse(here: Mounted) -> None:
    with (here.guest / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x")
    seen = (here.guest / "sparse").stat()
    assert seen.st_size == 64 << 20 and seen.st_blocks * 512 < 1 << 20


def test_an_open_file_outlives_its_name(here: Mounted) -> None:
    path = here.guest / "gone"
    with path.open("w+") as file:
        file.write("still here")
        file.flush()
        path.unlink()
        assert os.fstat(file.fileno()).st_size == 10
        file.seek(0)
        assert file.read() == "still here"
        file.write("!")
        file.flush()
        os.fsync(file.fileno())
    assert not (here.host / "gone").exists()


def test_rename_over_and_exclusive_creation(here: Mounted) -> None:
    (here.guest / "old").write_text("old")
    (here.guest / "new").write_text("new")
    with (here.guest / "old").open() as before:
        os.replace(here.guest / "new", here.guest / "old")
        assert before.read() == "old"
    assert (here.guest / "old").read_text() == (here.host / "old").read_text() == "new"
    with pytest.raises(FileExistsError):
        os.open(here.guest / "old", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    (here.guest / "Old").write_text("other")
    (here.guest / "dir").mkdir()
    (here.guest / "dir/inner").write_text("x")
    os.rename(here.guest / "dir", here.guest / "moved")
    assert (here.guest / "moved/inner").read_text() == "x"
    with pytest.raises(OSError) as raised:
        (here.guest / "moved").rmdir()
    assert raised.value.errno == errno.ENOTEMPTY


def test_locks_hold_between_containers(here: Mounted) -> None:
    path = here.guest / "lock"
    path.touch()
    with path.open("r+") as first, path.open("r+") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_memory_maps_write_through(here: Mounted) -> None:
    """By another process: a page fault holds Python's lock, and this one serves the share."""
    (here.guest / "mapped").write_bytes(bytes(8192))
    script = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 8192) as memory:
    memory[4096:4101] = b"hello"
    memory.flush()
"""
    subprocess.run([sys.executable, "-c", script, here.guest / "mapped"], check=True, timeout=DEADLINE_S)
    assert (here.host / "mapped").read_bytes()[4096:4101] == b"hello"


def test_pipes_and_sockets_work_and_devices_are_refused(here: Mounted) -> None:
    os.mkfifo(here.guest / "pipe")
    assert stat.S_ISFIFO((here.host / "pipe").stat().st_mode)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        directory = os.open(here.guest, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/socket")
            listener.listen()
            client.connect(f"/proc/self/fd/{directory}/socket")
        finally:
            os.close(directory)
    with pytest.raises(PermissionError):
        os.mknod(here.guest / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def test_times_are_kept_to_the_nanosecond(here: Mounted) -> None:
    path = here.guest / "dated"
    path.touch()
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    assert path.stat().st_mtime_ns == (here.host / "dated").stat().st_mtime_ns == 1_234_567_890_123_456_789
    os.utime(path, ns=(0, -5_000_000_001))
    assert path.stat().st_mtime_ns == -5_000_000_001


def test_large_content_goes_both_ways(here: Mounted) -> None:
    content = os.urandom(5_000_003)
    (here.guest / "up").write_bytes(content)
    assert (here.host / "up").read_bytes() == content
    (here.host / "down").write_bytes(content)
    assert (here.guest / "down").read_bytes() == content
    with (here.guest / "up").open("ab") as file:
        file.write(b"more")
    assert (here.host / "up").stat().st_size == len(content) + 4


def test_ten_thousand_files(here: Mounted) -> None:
    for index in range(10_000):
        (here.host / f"file{index}").touch()
    with os.scandir(here.guest) as entries:
        names = {entry.name for entry in entries if entry.stat().st_size == 0}
    assert len(names) == 10_000
    assert len(os.listdir(here.guest)) == 10_000


def test_what_was_written_is_on_the_host_when_it_is_closed_or_synced(here: Mounted) -> None:
    content = os.urandom(300_001)
    for index in range(20):
        with (here.guest / f"closed{index}").open("wb", buffering=0) as file:
            for start in range(0, len(content), 10_000):
                file.write(content[start : start + 10_000])
        assert (here.host / f"closed{index}").read_bytes() == content
    with (here.guest / "synced").open("wb", buffering=0) as file:
        for start in range(0, len(content), 1000):
            file.write(content[start : start + 1000])
        os.fsync(file.fileno())
        assert (here.host / "synced").read_bytes() == content
    descriptor = os.open(here.guest / "at once", os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    os.write(descriptor, content)
    assert (here.host / "at once").read_bytes() == content
    os.close(descriptor)


def test_a_full_disk_is_told_to_who_writes_closes_or_syncs(here: Mounted) -> None:
    small = here.host / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        for end in (os.fsync, os.close):
            descriptor = os.open(here.guest / f"small/{end.__name__}", os.O_CREAT | os.O_WRONLY)
            with pytest.raises(OSError) as raised:
                for _ in range(100):
                    os.write(descriptor, bytes(4096))
                end(descriptor)
            assert raised.value.errno == errno.ENOSPC
            with contextlib.suppress(OSError):
                os.close(descriptor)
        descriptor = os.open(here.guest / "fits", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"x")
        os.fsync(descriptor)
        os.close(descriptor)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_changes_of_the_host_are_seen_within_a_second(here: Mounted) -> None:
    file = here.guest / "file"
    assert not file.exists()
    (here.host / "file").write_text("first")
    wait_for(lambda: file.exists() and file.read_text() == "first")
    draft = here.host / "draft"
    draft.write_text("second")
    draft.replace(here.host / "file")
    wait_for(lambda: file.read_text() == "second")
    (here.host / "file").unlink()
    wait_for(lambda: not file.exists())


def test_a_new_hostagent_goes_on_where_the_old_one_was_killed(mounted: Mounted) -> None:
    folder = mounted.guest / "project"
    folder.mkdir()
    (folder / "file").write_text("before")
    inside = os.open(folder, os.O_RDONLY)
    with (folder / "file").open("r+") as file:
        mounted.another_session()
        file.seek(0, os.SEEK_END)
        file.write(" and after")
        file.flush()
        assert os.listdir(inside) == ["file"]
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    os.close(inside)
    assert (mounted.host / "project/file").read_text() == "before and after"
    assert (mounted.host / "project/new").exists()


def test_who_waits_while_the_connection_is_down_is_served_by_the_next(mounted: Mounted) -> None:
    mounted.session.detach()
    writing = subprocess.Popen(["sh", "-c", f"echo late >{mounted.guest}/late"])
    with pytest.raises(subprocess.TimeoutExpired):
        writing.wait(0.3)
    mounted.session.attach(mounted.address)
    assert writing.wait(DEADLINE_S) == 0
    assert (mounted.host / "late").read_text() == "late\n"


def test_a_wrong_token_is_not_answered(mounted: Mounted) -> None:
    from vmbackend.errors import GuestUnreachable

    stranger = AgentAddress(mounted.address._port, "0" * 64)
    with pytest.raises(GuestUnreachable):
        stranger.ask("list")


def test_a_read_only_share_refuses_every_change(tmp_path: Path) -> None:
    with contextlib.contextmanager(_mounted)(tmp_path, read_only=True) as mounted:
        file = mounted.guest / "file"
        (mounted.host / "file").write_text("x")
        assert file.read_text() == "x"
        changes: list[Callable[[], object]] = [
            lambda: file.write_text("y"),
            lambda: file.chmod(0o600),
            lambda: file.unlink(),
            lambda: (mounted.guest / "dir").mkdir(),
            lambda: os.rename(file, mounted.guest / "other"),
        ]
        for change in changes:
            with pytest.raises(OSError) as raised:
                change()
            assert raised.value.errno == errno.EROFS
        assert (mounted.host / "file").read_text() == "x"


class Inotify:
    """inotify(7) on a directory; events are (kind, name)."""

    KINDS: ClassVar = {
        0x2: "modify",
        0x8: "close_write",
        0x40: "moved_from",
        0x80: "moved_to",
        0x100: "create",
        0x200: "delete",
    }

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(directory), sum(self.KINDS)) > 0
        self.seen: list[tuple[str, str]] = []

    def wait_for(self, *wanted: tuple[str, str]) -> None:
        while not all(one in self.seen for one in wanted):
            ready, _, _ = select.select([self.descriptor], [], [], DEADLINE_S)
            assert ready, self.seen
            data = os.read(self.descriptor, 65536)
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                self.seen += [(kind, name) for bit, kind in self.KINDS.items() if mask & bit]
                data = data[16 + length :]

    def close(self) -> None:
        os.close(self.descriptor)


def test_changes_of_the_host_reach_inotify(here: Mounted) -> None:
    (here.host / "there").write_text("x")
    (here.host / "going").write_text("x")
    watch = ChangeWatch(here.session.share.host_path, here.session.tell)
    os.listdir(here.guest)
    inotify = Inotify(here.guest)
    try:
        watch.watch([here.host])
        assert watch.problem is None
        (here.host / "made").write_text("y")
        inotify.wait_for(("create", "made"), ("close_write", "made"))
        (here.host / "folder").mkdir()
        inotify.wait_for(("create", "folder"))
        (here.host / "there").write_text("longer")
        inotify.wait_for(("modify", "there"), ("close_write", "there"))
        assert (here.guest / "there").read_text() == "longer"
        (here.host / "going").unlink()
        inotify.wait_for(("delete", "going"))
        (here.host / "made").rename(here.host / "renamed")
        inotify.wait_for(("moved_from", "made"), ("moved_to", "renamed"))
        draft = here.host / ".there.swp"
        draft.write_text("saved by an editor")
        draft.replace(here.host / "there")
        inotify.wait_for(("moved_to", "there"))
        assert (here.guest / "there").read_text() == "saved by an editor"
        assert (here.guest / "renamed").read_text() == "y"
        (here.host / "folder").rmdir()
        inotify.wait_for(("delete", "folder"))
        assert sorted(os.listdir(here.guest)) == sorted(os.listdir(here.host)) == ["renamed", "there"]
        # What the guest does itself it knows once, and is not told again.
        before = len(inotify.seen)
        (here.guest / "own").write_text("z")
        inotify.wait_for(("close_write", "own"))
        (here.host / "last").touch()
        inotify.wait_for(("create", "last"))
        assert [event for event in inotify.seen[before:] if event == ("create", "own")] == [("create", "own")]
    finally:
        watch.close()
        inotify.close()

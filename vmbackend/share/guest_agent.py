"""Runs in the guest, by itself: mounts shares with FUSE and carries their requests to the hostagent.

The hostagent brings this file along, so both always speak the same language. Standard library only, Python 3.11.
`python3 guest_agent.py CHANNEL ADDRESS STATE_DIR` writes `STATE_DIR/agent.json` (pid, port, token) and serves until
killed. CHANNEL is a character device, or the name of a virtio port.

What is to be done comes by TCP: a connection begins with a line of JSON, `{"token", "op", ...}`, answered by one:

- `begin {mark}` → `{"ok": true, "filler"}`: the channel is this hostagent's from now on, until it hangs up. It sends
  `filler` bytes, which end what an earlier one may have left half said, and the mark; then the agent sends the mark.
- `attach {path, number}` → `{"ok": true, "mounted": whether it was just mounted, "echo_tid"}`; from then on the
  channel carries its FUSE messages. Unanswered requests of before are sent again.
- `detach {path, force}` → `{"ok": true}` once it is unmounted; `{"ok": false, "error"}` while it is in use.
- `list` → `{"ok": true, "paths"}`; `publish {file, content}` → `{"ok": true}`, what the engine reads of the shares.

The channel carries FUSE messages as they are, with the share's number before each (32 bits, little-endian).

Writes are answered here, while they are on their way: all that comes after them waits for them, and close(2) and
fsync(2) wait for the hostagent's word and tell of what failed.
"""

# ruff: noqa: PTH123, UP031 - pathlib is not worth its import under emulation

import collections
import errno
import io
import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
from typing import Any

assert sys.platform == "linux"

MAX_MESSAGE = (1 << 20) + 8192
IN = struct.Struct("<4xIQ")  # opcode, unique
OUT = struct.Struct("<IiQ")
NUMBER = struct.Struct("<I")
HEAD = struct.Struct("<II")  # a share's number, its message's size
NOTIFY_PROVOKE = 1000
SILENT = (2, 42, 36)  # FORGET, BATCH_FORGET, INTERRUPT
WRITE, RELEASE, FSYNC, FLUSH = 16, 18, 20, 25
BODY = 40  # where a request's own part begins
WRITE_IN = struct.Struct("<QQIIQI")  # handle, offset, size, write flags, lock owner, flags of open(2)
WRITE_OUT = struct.Struct("<IiQII")
WRITE_CACHE = 1  # of a mapping's pages: nobody waits for it
MAX_BEHIND = 4 << 20


def mount(path: str, descriptor: int) -> None:
    options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576" % descriptor
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            unmount(path, True)  # left behind by an agent that died
    os.makedirs(path, exist_ok=True)
    arguments = ["mount", "-i", "-t", "fuse", "-o", options, "wherry", path]
    os.set_inheritable(descriptor, True)
    code = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp("mount", arguments, os.environ), 0)[1])
    os.set_inheritable(descriptor, False)
    if code:
        raise OSError(errno.EIO, "mount ended with code %d" % code)
    try:
        with open("/proc/self/mountinfo") as table:
            device = [line.split()[2] for line in table if line.split()[4] == escaped(path)][-1]
        with open("/sys/class/bdi/%s/read_ahead_kb" % device, "w") as readahead:
            readahead.write("1024")
    except (OSError, IndexError):
        pass  # slower reading, nothing else


def escaped(path: str) -> str:
    return "".join("\\%03o" % ord(one) if one in " \t\n\\" else one for one in path)


def unmount(path: str, lazily: bool) -> bool:
    arguments = ["umount", "-l", path] if lazily else ["umount", path]
    return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp("umount", arguments, os.environ), 0)[1]) == 0


class Channel:
    """The way to the hostagent and back. All shares' messages go over it one after the other."""

    def __init__(self, device: str) -> None:
        self.descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY)
        # A virtio port gives a page at a time: the loop over them is the reader's, in C.
        self.reader = io.BufferedReader(io.FileIO(self.descriptor, "rb", closefd=False), 1 << 16)
        self.lock = threading.Lock()
        self.shares: dict[int, Share] = {}
        self.mark = b""  # awaited; what comes before it is another hostagent's
        self.marked = threading.Event()
        self.used = False
        self.holder: socket.socket | None = None
        threading.Thread(target=self.carry_answers, daemon=True).start()

    def begin(self, connection: socket.socket, mark: bytes) -> None:
        """Serve a hostagent until it hangs up."""
        with self.lock:
            old, self.holder = self.holder, connection
            self.shares.clear()
            self.mark, used, self.used = mark, self.used, True
        if old is not None:
            try:
                old.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.marked.set()
        try:
            connection.sendall(answer(ok=True, filler=MAX_MESSAGE if used else 0))
            with self.lock:
                self.write(memoryview(mark))
            while connection.recv(4096):
                pass
        finally:
            with self.lock:
                if self.holder is connection:
                    self.holder = None
                    self.shares.clear()

    def write(self, data: memoryview) -> None:
        """With the lock held. Waits for as long as no hostagent is there."""
        while data:
            data = data[os.write(self.descriptor, data) :]

    def carry_answers(self) -> None:
        buffer = memoryview(bytearray(4 + MAX_MESSAGE))
        while True:
            self.marked.wait()
            if self.mark:
                self.skip_to_mark()
            if self.fill(buffer[: HEAD.size]):
                number, size = HEAD.unpack_from(buffer)[:2]
                if self.fill(buffer[HEAD.size : 4 + size]):
                    share = self.shares.get(number)
                    if share is not None:
                        share.take_answer(buffer[4 : 4 + size])

    def fill(self, part: memoryview) -> bool:
        """False when it is not the present hostagent's that is read."""
        if len(part) and self.reader.readinto(part) < len(part):
            self.pause()
            return False
        return not self.mark

    def skip_to_mark(self) -> None:
        seen = b""
        while not (self.mark and seen.endswith(self.mark)):
            got = self.reader.read1(1 << 16)
            if not got:
                self.pause()
            seen = seen[-64:] + got
        with self.lock:
            if seen.endswith(self.mark):
                self.mark = b""

    def pause(self) -> None:
        """No hostagent is at the other end."""
        if self.mark:
            time.sleep(0.05)  # one comes
            return
        self.marked.clear()
        if not self.mark:
            self.marked.wait()


class WritesBehind:
    """Which writes were answered before the hostagent did them, and what became of them; by the file's handle."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.writes: dict[int, tuple[int, int]] = {}  # by the request's number: handle, size
        self.under_way: dict[int, int] = {}  # how many, by handle
        self.size = 0
        self.failed: dict[int, int] = {}  # what is told once, by handle: as FUSE has it, a negative number
        self.waiting: dict[int, tuple[int, int]] = {}  # requests that are told of failures: opcode, handle

    def early_answer(self, opcode: int, unique: int, request: memoryview) -> bytes:
        """What the kernel is told now; empty when it has to wait."""
        if opcode not in (WRITE, FLUSH, FSYNC, RELEASE):
            return b""
        with self.lock:
            if opcode == WRITE:
                handle, _, size, how, _, flags = WRITE_IN.unpack_from(request, BODY)
                if how & WRITE_CACHE:
                    return b""
                fits = self.size + size <= MAX_BEHIND and not flags & os.O_DSYNC
                if fits and handle not in self.failed:
                    self.writes[unique] = handle, size
                    self.under_way[handle] = self.under_way.get(handle, 0) + 1
                    self.size += size
                    return WRITE_OUT.pack(WRITE_OUT.size, 0, unique, size, 0)
            else:
                handle = int.from_bytes(request[BODY : BODY + 8], "little")
                if opcode == FLUSH and handle not in self.under_way and handle not in self.failed:
                    return OUT.pack(OUT.size, 0, unique)
            self.waiting[unique] = opcode, handle
        return b""

    def late_answer(self, unique: int, message: memoryview) -> "bytes | memoryview | None":
        """What the kernel is told of the hostagent's answer; None when it was told before."""
        with self.lock:
            if unique in self.writes:
                handle, size = self.writes.pop(unique)
                self.size -= size
                self.under_way[handle] -= 1
                if not self.under_way[handle]:
                    del self.under_way[handle]
                error = OUT.unpack_from(message)[1]
                if error:
                    self.failed.setdefault(handle, error)
                return None
            if unique in self.waiting:
                opcode, handle = self.waiting.pop(unique)
                error = self.failed.pop(handle, 0)
                if error and opcode != RELEASE:
                    return OUT.pack(OUT.size, error, unique)
        return message


class Share:
    """One mounted directory and its FUSE device; `number` is its name on the channel, 0 while nobody serves it."""

    def __init__(self, channel: Channel) -> None:
        self.device = os.open("/dev/fuse", os.O_RDWR)
        self.channel = channel
        self.number = 0
        self.pending: dict[int, bytes] = {}
        self.notices: collections.deque[bytes] = collections.deque()
        self.noticed = threading.Semaphore(0)
        self.echo_tid = 0
        self.ended = False
        self.behind = WritesBehind()

    def start(self) -> None:
        """Once it is mounted: a device that is not refuses to be read."""
        known = threading.Event()
        threading.Thread(target=self.carry_requests, daemon=True).start()
        threading.Thread(target=self.take_notices, args=(known,), daemon=True).start()
        known.wait()

    def carry_requests(self) -> None:
        buffer = bytearray(4 + MAX_MESSAGE)
        view = memoryview(buffer)
        body = view[4:]
        while True:
            try:
                size = os.readv(self.device, [body])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                self.ended = True
                return  # unmounted
            opcode, unique = IN.unpack_from(body)
            early = self.behind.early_answer(opcode, unique, body)
            if early:
                self.tell_kernel(early)
                if opcode == FLUSH:
                    continue  # nothing is under way
            with self.channel.lock:
                if opcode not in SILENT:
                    self.pending[unique] = bytes(body[:size])
                if self.channel.shares.get(self.number) is self:
                    NUMBER.pack_into(buffer, 0, self.number)
                    self.channel.write(view[: 4 + size])

    def serve(self, number: int, connection: socket.socket, greeting: bytes) -> None:
        """Have the present hostagent answer from now on."""
        with self.channel.lock:
            connection.sendall(greeting)
            self.number = number
            self.channel.shares[number] = self
            for request in list(self.pending.values()):
                self.channel.write(memoryview(NUMBER.pack(number) + request))

    def take_answer(self, message: memoryview) -> None:
        unique = int.from_bytes(message[8:16], "little")
        if unique == 0:
            # By another thread: a notice may wait in the kernel for a file somebody holds who waits for an answer.
            self.notices.append(bytes(message))
            self.noticed.release()
            return
        self.pending.pop(unique, None)
        told = self.behind.late_answer(unique, message)
        if told is not None:
            self.tell_kernel(told)

    def tell_kernel(self, message: "bytes | memoryview") -> None:
        try:
            os.write(self.device, message)
        except OSError:
            pass  # whoever asked is gone

    def take_notices(self, known: threading.Event) -> None:
        self.echo_tid = threading.get_native_id()
        known.set()
        while True:
            self.noticed.acquire()
            message = self.notices.popleft()
            code = OUT.unpack_from(message)[1]
            try:
                if code == NOTIFY_PROVOKE:
                    for step in json.loads(message[16:]):
                        provoke(step)
                else:
                    os.write(self.device, message)
            except OSError:
                pass  # the kernel did not know the name: nothing to forget


def provoke(step: list[str]) -> None:
    """Do what has been done on the host already; the host, asked by this thread, says yes and does nothing."""
    kind, path = step[0], os.fsencode(step[1])
    try:
        if kind == "create":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        elif kind == "mkdir":
            os.mkdir(path)
        elif kind == "symlink":
            os.symlink("x", path)
        elif kind == "modify":
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size)
            finally:
                os.close(descriptor)
        elif kind == "attrib":
            os.chmod(path, os.stat(path).st_mode & 0o7777)
        elif kind == "delete":
            os.unlink(path)
        elif kind == "rmdir":
            os.rmdir(path)
        elif kind == "move":
            os.rename(path, os.fsencode(step[2]))
    except OSError:
        pass  # gone again meanwhile: the next event tells


class Agent:
    def __init__(self, channel: str, state: str) -> None:
        self.channel = Channel(channel)
        self.state = state
        self.token = secrets.token_hex(32)
        self.shares: dict[str, Share] = {}
        self.lock = threading.Lock()

    def serve(self, address: str) -> None:
        listener = socket.create_server((address, 0))
        document = {"pid": os.getpid(), "port": listener.getsockname()[1], "token": self.token}
        draft = os.path.join(self.state, "agent.json.new")
        with open(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as stream:
            json.dump(document, stream)
        os.rename(draft, os.path.join(self.state, "agent.json"))
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.take, args=(connection,), daemon=True).start()

    def take(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(20)
                line = b""
                while not line.endswith(b"\n") and len(line) < 65536:
                    byte = connection.recv(1)
                    if not byte:
                        return
                    line += byte
                request = json.loads(line)
                if not secrets.compare_digest(str(request.get("token")), self.token):
                    return
                connection.settimeout(None)
                self.perform(request, connection)
            except (OSError, ValueError, KeyError) as error:
                try:
                    connection.sendall(answer(ok=False, error=str(error)))
                except OSError:
                    pass

    def perform(self, request: dict[str, Any], connection: socket.socket) -> None:
        if request["op"] == "begin":
            self.channel.begin(connection, bytes.fromhex(request["mark"]))
        elif request["op"] == "attach":
            share, mounted = self.attach(request["path"])
            share.serve(request["number"], connection, answer(ok=True, mounted=mounted, echo_tid=share.echo_tid))
        elif request["op"] == "detach":
            connection.sendall(self.detach(request["path"], request["force"]))
        elif request["op"] == "publish":
            path = request["file"]
            with open(path + ".new", "w") as stream:
                stream.write(request["content"])
            os.rename(path + ".new", path)
            connection.sendall(answer(ok=True))
        else:
            connection.sendall(answer(ok=True, paths=sorted(self.shares)))

    def attach(self, path: str) -> tuple[Share, bool]:
        with self.lock:
            share = self.shares.get(path)
            if share is not None and not share.ended:
                return share, False
            share = Share(self.channel)
            # The kernel's first request waits for whoever serves the share, a moment later.
            mount(path, share.device)
            share.start()
            self.shares[path] = share
            return share, True

    def detach(self, path: str, force: bool) -> bytes:
        with self.lock:
            share = self.shares.get(path)
            if share is not None and not unmount(path, force):
                return answer(ok=False, error="it is in use by a container")
            if share is not None:
                del self.shares[path]
                if not force:
                    os.close(share.device)
            try:
                os.rmdir(path)
            except OSError:
                pass
            return answer(ok=True)


def answer(**document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def port_device(name: str) -> str:
    """The device of the virtio port of that name; a path is one already."""
    if name.startswith("/"):
        return name
    for port in os.listdir("/sys/class/virtio-ports"):
        with open("/sys/class/virtio-ports/%s/name" % port) as file:
            if file.read().strip() == name:
                path = "/dev/%s" % port
                if not os.path.exists(path):
                    with open("/sys/class/virtio-ports/%s/dev" % port) as file:
                        os.mknod(path, 0o600 | 0o20000, os.makedev(*map(int, file.read().split(":"))))
                return path
    raise OSError(errno.ENODEV, "there is no virtio port %s" % name)


def main() -> None:
    channel, address, state = sys.argv[1:]
    os.makedirs(state, mode=0o700, exist_ok=True)
    if not os.path.exists("/dev/fuse"):
        os.mknod("/dev/fuse", 0o666 | 0o20000, os.makedev(10, 229))
    try:
        # Without this process every share is gone: let the kernel look elsewhere for memory first.
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("-1000")
    except OSError:
        pass
    threading.stack_size(256 * 1024)
    Agent(port_device(channel), state).serve(address)


if __name__ == "__main__":
    main()

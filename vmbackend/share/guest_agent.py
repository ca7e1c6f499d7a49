"""Runs in the guest, by itself: mounts shares with FUSE and carries their requests to the hostagent.

The hostagent brings this file along, so both always speak the same language. Standard library only, Python 3.11.
`python3 guest_agent.py ADDRESS STATE_DIR` writes `STATE_DIR/agent.json` (pid, port, token) and serves until killed.

A connection begins with a line of JSON, `{"token", "op", ...}`, answered by one:

- `attach {path}` → `{"ok": true, "mounted": whether it was just mounted, "echo_tid"}`; from then on the
  connection carries FUSE messages as they are. Unanswered requests of a connection before are sent again.
- `detach {path, force}` → `{"ok": true}` once it is unmounted; `{"ok": false, "error"}` while it is in use.
- `list` → `{"ok": true, "paths"}`; `publish {file, content}` → `{"ok": true}`, what the engine reads of the shares.
"""

# ruff: noqa: PTH123, UP031 - pathlib is not worth its import under emulation

import collections
import errno
import json
import os
import secrets
import socket
import struct
import sys
import threading
from typing import Any

assert sys.platform == "linux"

MAX_MESSAGE = (1 << 20) + 8192
OUT = struct.Struct("<IiQ")
NOTIFY_PROVOKE = 1000
SILENT = (2, 42, 36)  # FORGET, BATCH_FORGET, INTERRUPT


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


class Share:
    """One mounted directory: its FUSE device, and the connection that serves it now."""

    def __init__(self) -> None:
        self.device = os.open("/dev/fuse", os.O_RDWR)
        self.lock = threading.Lock()
        self.connection: socket.socket | None = None
        self.pending: dict[int, bytes] = {}
        self.notices: collections.deque[bytes] = collections.deque()
        self.noticed = threading.Semaphore(0)
        self.echo_tid = 0
        self.ended = False

    def start(self) -> None:
        """Once it is mounted: a device that is not refuses to be read."""
        known = threading.Event()
        threading.Thread(target=self.carry_requests, daemon=True).start()
        threading.Thread(target=self.take_notices, args=(known,), daemon=True).start()
        known.wait()

    def carry_requests(self) -> None:
        buffer = bytearray(MAX_MESSAGE)
        view = memoryview(buffer)
        while True:
            try:
                size = os.readv(self.device, [buffer])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                self.ended = True
                return  # unmounted
            opcode = int.from_bytes(view[4:8], "little")
            with self.lock:
                if opcode not in SILENT:
                    self.pending[int.from_bytes(view[8:16], "little")] = bytes(view[:size])
                if self.connection is not None:
                    try:
                        self.connection.sendall(view[:size])
                    except OSError:
                        self.connection = None  # sent again on the next one

    def serve(self, connection: socket.socket, greeting: bytes) -> None:
        """Carry answers until the connection ends."""
        with self.lock:
            old, self.connection = self.connection, None
            if old is not None:
                old.shutdown(socket.SHUT_RDWR)
            connection.sendall(greeting)
            for request in list(self.pending.values()):
                connection.sendall(request)
            self.connection = connection
        buffer = bytearray(4 * MAX_MESSAGE)
        view = memoryview(buffer)
        start = end = 0
        try:
            while True:
                got = connection.recv_into(view[end:])
                if not got:
                    return
                end += got
                while end - start >= 16:
                    size = int.from_bytes(view[start : start + 4], "little")
                    if end - start < size:
                        break
                    self.take_answer(view[start : start + size])
                    start += size
                if start == end:
                    start = end = 0
                elif end > MAX_MESSAGE:
                    buffer[: end - start] = buffer[start:end]
                    start, end = 0, end - start
        except OSError:
            pass
        finally:
            with self.lock:
                if self.connection is connection:
                    self.connection = None

    def take_answer(self, message: memoryview) -> None:
        unique = int.from_bytes(message[8:16], "little")
        if unique == 0:
            # By another thread: a notice may wait in the kernel for a file somebody holds who waits for an answer.
            self.notices.append(bytes(message))
            self.noticed.release()
            return
        self.pending.pop(unique, None)
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
    def __init__(self, state: str) -> None:
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
        if request["op"] == "attach":
            share, mounted = self.attach(request["path"])
            share.serve(connection, answer(ok=True, mounted=mounted, echo_tid=share.echo_tid))
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
            share = Share()
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


def main() -> None:
    address, state = sys.argv[1:]
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
    Agent(state).serve(address)


if __name__ == "__main__":
    main()

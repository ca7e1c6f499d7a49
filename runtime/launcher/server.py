"""Requests to replies: what the launcher does for the engine."""

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from runtime.container.facts import HostFacts
from runtime.container.op import Refused
from runtime.container.plan import Launch, Stdio
from runtime.container.spawn import Child
from runtime.container.start import read_config, start_container, start_exec
from runtime.launcher import protocol
from runtime.launcher.children import Again, Children, Process
from runtime.launcher.connection import Connection
from runtime.launcher.execs import ExecServer
from runtime.launcher.fdstore import FdStore, Key
from runtime.launcher.loop import Loop
from runtime.launcher.pool import PAUSE_AFTER_START_S, PAUSE_S, ReadyInits
from runtime.launcher.protocol import KEEP_PREFIX, STDIO, Message

_LIST_CHUNK = 100
"""Records in one reply to `list`: with ids of 64 characters and long bundle paths well within a datagram."""

NO_ROOM = (
    "too many open files: the launcher has as many open as it may: end some containers, or raise the limit it is "
    "started with (LimitNOFILE= of the engine's unit, ulimit -n)"
)
_NO_PROCESS = (
    "no process can be made (resource temporarily unavailable): there are as many as a limit allows: end some, or "
    "raise it (--pids-limit of the container, TasksMax= of the engine's unit, pids.max of a cgroup, kernel.pid_max)"
)
_SENTENCES = {errno.EMFILE: NO_ROOM, errno.EAGAIN: _NO_PROCESS}

_MALFORMED = (KeyError, TypeError, AttributeError, ValueError)


class Server:
    """The launcher on `listener`: at most one engine at a time, a new one in place of the old."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        facts: HostFacts,
        ready: ReadyInits | None,
        execs: ExecServer | None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._facts = facts
        self._ready = ready
        self._execs = execs
        self._store = FdStore()
        self._children = Children(loop, self._store, self._started, self._failed, self._exited)
        self._connection: Connection | None = None
        # Starts not yet answered, for the connection that asked: a new engine does not know the old one's numbers.
        self._asked: dict[Key, tuple[Connection, int]] = {}
        self._handlers: dict[str, Callable[[Message, dict[str, int]], None]] = {
            "hello": self._hello,
            "run": self._run,
            "exec": self._exec,
            "list": self._list,
            "reopen": self._reopen,
            "ack": self._ack,
            "drop": self._drop,
            "shutdown": self._shutdown,
        }
        loop.add(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it thought better of it
            return
        if self._connection is not None:
            self._connection.close()
            self._connection_closed()
        self._connection = Connection(self._loop, sock, self._handle, self._connection_closed)
        for process in self._children.listed():
            if process.exited is not None:
                self._send_exit(process)

    def _connection_closed(self) -> None:
        self._connection = None
        self._asked.clear()
        self._children.abandon_starts()

    def _handle(self, message: Message, fds: dict[str, int]) -> None:
        try:
            handler = self._handlers.get(message.get("op", ""))
            if handler is None:
                raise Refused(errno.ENOSYS, f"the launcher does not know the request {message.get('op')!r}")
            if protocol.has_lost_fds(message, fds):
                raise Refused(errno.EMFILE, NO_ROOM)
            handler(message, fds)
        except Refused as refusal:
            self._refuse(message.get("seq"), "launcher", refusal.errno, str(refusal))
        except OSError as error:
            sentence = _SENTENCES.get(error.errno or 0, f"the launcher failed: {error}")
            self._refuse(message.get("seq"), "launcher", error.errno or 0, sentence)
        except _MALFORMED as error:
            self._refuse(message.get("seq"), "launcher", errno.EINVAL, f"malformed request: {error!r}")
        finally:
            # Whatever a handler keeps it has taken out.
            protocol.close_all(fds.values())

    def _reply(self, seq: Any, body: Mapping[str, Any], fds: Mapping[str, int] | None = None) -> None:
        if self._connection is not None:
            self._connection.send({"seq": seq, "ok": True, **body}, fds)

    def _refuse(self, seq: Any, phase: str, code: int, message: str) -> None:
        if self._connection is not None:
            body = {"seq": seq, "ok": False, "phase": phase, "errno": code, "message": message}
            self._connection.send(body)

    # Requests

    def _hello(self, message: Message, fds: dict[str, int]) -> None:
        self._reply(message["seq"], {"pid": os.getpid(), "version": protocol.VERSION})

    def _run(self, message: Message, fds: dict[str, int]) -> None:
        key = (message["id"], "")
        launch = Launch(
            id=message["id"],
            bundle=message["bundle"],
            stdio=_stdio(fds),
            overlay=message["rootfs"],
            join=message["join"],
            netns=fds.get("netns"),
        )

        def start() -> Child:
            spec = read_config(launch.bundle)
            cgroup = fds.get("cgroup")
            # To be born in a cgroup is cheaper than to move there: on cgroup v2 that waits for the whole machine.
            if self._ready and cgroup is None and (child := self._ready.start(spec, launch)):
                return child
            return start_container(spec, launch, self._facts, filter_dir=launch.bundle, cgroup_fd=cgroup)

        self._start(key, message, fds, launch.bundle, start)

    def _exec(self, message: Message, fds: dict[str, int]) -> None:
        key = (message["id"], message["exec_id"])
        launch, container = self._in_container(message, fds)
        process: str = message["process"]

        def fork(fds: dict[str, int]) -> Child:
            launch, container = self._in_container(message, fds)
            cgroup = fds.get("cgroup")
            return start_exec(process, launch, container, self._facts, filter_dir=launch.bundle, cgroup_fd=cgroup)

        # A terminal needs a process of its own, and only that can be born in a cgroup.
        alone = "stdout" not in fds or "cgroup" in fds or message.get("fork")
        served = self._execs and not alone and self._children.get(key) is None
        news = self._execs.ask(process, launch, container) if self._execs and served else None
        if news is None:
            self._start(key, message, fds, launch.bundle, lambda: fork(fds))
            return
        kept = {name: fds.pop(name) for name in list(fds) if not name.startswith(KEEP_PREFIX)}
        self._children.expect(key, launch.bundle, news, Again(lambda: fork(kept), list(kept.values())))
        self._take(key, message, fds)

    def _in_container(self, message: Message, fds: Mapping[str, int]) -> tuple[Launch, int]:
        """What to start, and a pidfd of its container's init."""
        target = self._children.get((message["id"], ""))
        if target is not None and target.state == "running":
            bundle, container = target.bundle, target.pidfd
        elif "container" in fds and "bundle" in message:
            bundle, container = message["bundle"], fds["container"]
        else:
            raise Refused(errno.ESRCH, f"container {message['id']} is not running")
        return Launch(id=message["id"], bundle=bundle, stdio=_stdio(fds), join=message["join"]), container

    def _start(self, key: Key, message: Message, fds: dict[str, int], bundle: str, start: Callable[[], Child]) -> None:
        if self._children.get(key) is not None:
            raise Refused(errno.EEXIST, f"process {key[1] or key[0]} has been started already")
        self._children.add(key, bundle, start())
        self._take(key, message, fds)

    def _take(self, key: Key, message: Message, fds: dict[str, int]) -> None:
        kept = {name: fds.pop(name) for name in list(fds) if name.startswith(KEEP_PREFIX)}
        self._store.put(key, kept)
        if self._connection is not None:
            self._asked[key] = (self._connection, message["seq"])

    def _list(self, message: Message, fds: dict[str, int]) -> None:
        records = [process.record() for process in self._children.listed()]
        while len(records) > _LIST_CHUNK:
            self._reply(message["seq"], {"processes": records[:_LIST_CHUNK], "more": True})
            del records[:_LIST_CHUNK]
        self._reply(message["seq"], {"processes": records})

    def _reopen(self, message: Message, fds: dict[str, int]) -> None:
        key = _key(message)
        process = self._children.get(key)
        if process is None:
            raise Refused(errno.ENOENT, f"the launcher knows no process {key[1] or key[0]}")
        kept = dict(self._store.get(key))
        if process.pidfd >= 0:
            kept["pidfd"] = process.pidfd
        self._reply(message["seq"], {}, kept)

    def _ack(self, message: Message, fds: dict[str, int]) -> None:
        key = _key(message)
        if not self._children.forget(key):
            raise Refused(errno.ENOENT, f"the launcher knows no exited process {key[1] or key[0]}")
        self._reply(message["seq"], {})
        self._refill(PAUSE_S)

    def _drop(self, message: Message, fds: dict[str, int]) -> None:
        self._store.drop(_key(message), message["names"])
        self._reply(message["seq"], {})

    def _shutdown(self, message: Message, fds: dict[str, int]) -> None:
        if self._children.any_alive():
            raise Refused(errno.EBUSY, "the launcher has running containers: stop them first")
        if self._ready:
            self._ready.close()
        if self._execs:
            self._execs.end()
        self._reply(message["seq"], {})
        self._loop.stop()

    # What children do

    def _started(self, process: Process) -> None:
        self._answer_start(process)
        self._refill(PAUSE_S if self._ready and self._ready.is_empty else PAUSE_AFTER_START_S)

    def _refill(self, pause_s: float) -> None:
        if self._asked:
            return
        if self._execs and self._execs.is_missing():
            self._loop.call_when_idle(pause_s, self._make_exec_server)
        elif self._ready:
            self._ready.refill(pause_s)

    def _make_exec_server(self) -> None:
        if self._execs:
            self._execs.make()
        self._refill(PAUSE_S)

    def _answer_start(self, process: Process) -> None:
        asked = self._asked.pop(process.key, None)
        if asked is None:
            return
        connection, seq = asked
        fds = {"pidfd": process.pidfd}
        if "console" in self._store.get(process.key):
            fds["console"] = self._store.get(process.key)["console"]
        body = {"seq": seq, "ok": True, "pid": process.pid, "start_time": process.start_time}
        connection.send(body, fds)

    def _failed(self, process: Process) -> None:
        asked = self._asked.pop(process.key, None)
        if asked is not None and process.failure is not None:
            self._refuse(asked[1], *process.failure)
        self._refill(PAUSE_S)

    def _exited(self, process: Process) -> None:
        if self._execs and not process.key[1]:
            self._execs.container_ended(process.key[0])
        if self._connection is not None:
            self._send_exit(process)

    def _send_exit(self, process: Process) -> None:
        assert self._connection is not None
        assert process.exited is not None
        id_, exec_id = process.key
        self._connection.send({"event": "exit", "id": id_, "exec_id": exec_id, "pid": process.pid, **process.exited})


def _stdio(fds: Mapping[str, int]) -> Stdio:
    return Stdio(*(fds.get(name) for name in STDIO))


def _key(message: Message) -> Key:
    return (message["id"], message["exec_id"])

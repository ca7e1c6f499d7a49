"""Live processes: a container's own and its execs. Their streams, their ends, and what survives a restart.

The launcher is the parent that learns exit codes; this table is told by it, or by a pidfd alone when the launcher
that started the process is gone. Then the code is unknown, and said to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from runtime.engine.launcher_link import Exit, Key, Known, LauncherLink, Started
from runtime.engine.stdio import STDERR, STDOUT, OutputHub, Stdio, Take
from runtime.errors import ProcessFault, Unavailable
from runtime.launcher.protocol import SOCKET_NAME, SOCKET_PATTERN

log = logging.getLogger(__name__)

UNKNOWN_EXIT_CODE = 255
DRAIN_TIMEOUT_S = 0.2  # for an exec whose own children keep its pipes open

Launch = Callable[[Mapping[str, int]], Awaitable[Started]]


class UnknownExit(Exit):
    """The launcher that would know was killed."""


class LiveProcess:
    """One running process. `ended` resolves when it has exited and its output is delivered."""

    output_inodes: Sequence[int] = ()  # of the pipes it writes to: known again by them if nobody held the other ends

    def __init__(self, key: Key, pid: int, start_time: int, pidfd: int, stdio: Stdio) -> None:
        self.key = key
        self.pid = pid
        self.start_time = start_time
        self.stdio = stdio
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._pidfd = pidfd
        self._watched = False
        self._finishing: asyncio.Task[None] | None = None
        self._end_others: Callable[[], None] | None = None

    def signal(self, number: int) -> None:
        """pidfd_send_signal(2); nothing if the process has already gone."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)

    def watch(self) -> None:
        """Learn of the end from the pidfd alone: nobody is left who knows the exit code."""
        if self._pidfd >= 0 and not self._watched:
            self._watched = True
            asyncio.get_running_loop().add_reader(self._pidfd, self._gone)

    def _gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._watched = False
        self.finish(UnknownExit(UNKNOWN_EXIT_CODE, time.time_ns()))

    def ends_with(self, end_others: Callable[[], None]) -> None:
        """Have `end_others` called when this one exits: others may live on, and hold its streams open."""
        self._end_others = end_others
        if self._finishing:
            end_others()

    def finish(self, exit: Exit) -> None:
        if not self.ended.done() and not self._finishing:
            if self._end_others:
                self._end_others()
            self._finishing = asyncio.ensure_future(self._finish(exit))

    async def _finish(self, exit: Exit) -> None:
        self.stdio.take_rest()
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S if self.key[1] else None):
                await asyncio.shield(self.stdio.drained)
        except TimeoutError:
            self.stdio.drain_now()
        self.release()
        self.ended.set_result(exit)

    def release(self) -> None:
        """Close this process's fds in the engine; the process itself is left alone."""
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            self._watched = False
        self.stdio.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class ProcessTable:
    """Every live process by key, kept in step with the launcher."""

    def __init__(self, run_dir: Path) -> None:
        self._live: dict[Key, LiveProcess] = {}
        self._starting: dict[Key, Exit | None] = {}
        self._ended_before: dict[Key, Exit] | None = {}  # exits told before `settled`
        self._closing = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._run_dir = run_dir
        self.link = LauncherLink(run_dir, self._exited, self._lost)
        # Launchers of earlier versions start nothing any more, and stay until the last of theirs has ended.
        self._earlier: set[LauncherLink] = set()
        self._homes: dict[Key, LauncherLink] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    async def connect(self) -> list[Known]:
        """Connect to the launcher, and to those of earlier versions; return what they have."""
        await self.link.connect()
        known = await self.link.processes()
        for path in sorted(self._run_dir.glob(SOCKET_PATTERN)):
            if path.name != SOCKET_NAME:
                known += await self._connect_earlier(path.name)
        return known

    async def _connect_earlier(self, socket_name: str) -> list[Known]:
        link = LauncherLink(self._run_dir, self._exited, lambda: self._lost_earlier(link), socket_name)
        if not await link.connect_earlier():
            return []
        self._earlier.add(link)
        known = await link.processes()
        self._homes |= {process.key: link for process in known}
        log.info("launcher %s is of an earlier version, and keeps its %s processes", link.pid, len(known))
        self._retire_soon(link)
        return known

    def _home(self, key: Key) -> LauncherLink:
        return self._homes.get(key, self.link)

    async def reopen(self, key: Key) -> dict[str, int]:
        """As `LauncherLink.reopen`, of the launcher that has it."""
        return await self._home(key).reopen(key)

    def forget(self, key: Key) -> None:
        """The end of a container's own process is on record; until then the launcher tells it to every engine."""
        home = self._home(key)
        home.ack(key)
        if home is not self.link:
            self._retire_soon(home)

    def _retire_soon(self, link: LauncherLink) -> None:
        task = asyncio.ensure_future(self._retire(link))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, link: LauncherLink) -> None:
        """End a launcher of an earlier version that has nothing left."""
        with contextlib.suppress(Unavailable, ProcessFault):
            if not await link.processes():
                await link.shutdown()

    def _lost_earlier(self, link: LauncherLink) -> None:
        self._earlier.discard(link)
        for key, live in list(self._live.items()):
            if self._homes.get(key) is link:
                self._watch(live)
        self._homes = {key: home for key, home in self._homes.items() if home is not link}

    def _watch(self, live: LiveProcess) -> None:
        """Nobody will tell its end."""
        live.ended.add_done_callback(lambda _: self._live.pop(live.key, None))
        live.watch()

    def get(self, key: Key) -> LiveProcess | None:
        return self._live.get(key)

    async def start(
        self,
        key: Key,
        launch: Launch,
        *,
        terminal: bool,
        stdin: bool,
        take: Take,
        hub: OutputHub,
        extra_fds: Mapping[str, int],
    ) -> LiveProcess:
        """Make the streams, launch, and take the process in; raises what `launch` raises and leaves nothing."""
        with ExitStack() as child_ends, ExitStack() as undo:
            fds: dict[str, int] = dict(extra_fds)
            outputs: dict[int, int] = {}
            input_fd = None
            if not terminal:
                if stdin:
                    fds["stdin"], input_fd = _pipe(child_ends, undo)
                    fds["keep.stdin"] = input_fd
                for name, number in (("stdout", STDOUT), ("stderr", STDERR)):
                    outputs[number], fds[name] = _output_pipe(undo, child_ends)
                    fds[f"keep.{name}"] = outputs[number]
            self._starting[key] = None
            try:
                started = await launch(fds)
                undo.pop_all()
                stdio = Stdio(take, hub, outputs, input_fd, started.console, self._dropper(key))
                live = LiveProcess(key, started.pid, started.start_time, started.pidfd, stdio)
                live.output_inodes = [os.fstat(fd).st_ino for fd in outputs.values()]
                self._live[key] = live
            finally:
                early = self._starting.pop(key)
        if early:
            self._finish(live, early)
        return live

    def adopt(self, known: Known, fds: dict[str, int], terminal: bool, take: Take, hub: OutputHub) -> LiveProcess:
        """Take in a process that the launcher kept while no engine was there; owns the fds."""
        numbers = {"keep.stdout": STDOUT, "keep.stderr": STDERR}
        outputs = {number: fds.pop(name) for name, number in numbers.items() if name in fds}
        console = fds.pop("console", None) if terminal else None
        stdio = Stdio(take, hub, outputs, fds.pop("keep.stdin", None), console, self._dropper(known.key))
        live = LiveProcess(known.key, known.pid, known.start_time, fds.pop("pidfd", -1), stdio)
        for fd in fds.values():
            os.close(fd)
        self._live[known.key] = live
        if exit := known.exited or (self._ended_before or {}).pop(known.key, None):
            self._finish(live, exit)
        return live

    def settled(self) -> None:
        """Every process worth keeping has been adopted; exits of others are forgotten from here on."""
        for key in self._ended_before or {}:
            self.forget(key)
        self._ended_before = None

    def adopt_orphan(
        self, key: Key, pid: int, start_time: int, output_inodes: Sequence[int], take: Take, hub: OutputHub
    ) -> LiveProcess | None:
        """Take in a process whose launcher is gone, and its input or terminal with it; None if it has ended."""
        if start_time_of(pid) != start_time:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        live = LiveProcess(key, pid, start_time, pidfd, Stdio(take, hub, _reopened(pid, output_inodes)))
        self._live[key] = live
        live.ended.add_done_callback(lambda _: self._live.pop(key, None))
        live.watch()
        return live

    def _dropper(self, key: Key) -> Callable[[], None]:
        return lambda: self._home(key).drop(key, ["keep.stdin"])

    def _exited(self, key: Key, exit: Exit) -> None:
        if key in self._starting:
            self._starting[key] = exit
        elif live := self._live.get(key):
            self._finish(live, exit)
        elif self._ended_before is not None:
            self._ended_before[key] = exit
        else:
            self.forget(key)

    def _finish(self, live: LiveProcess, exit: Exit) -> None:
        def done(_: asyncio.Future[Exit]) -> None:
            self._live.pop(live.key, None)
            if live.key[1]:
                self.forget(live.key)

        if not live.ended.done():
            live.ended.add_done_callback(done)
            live.finish(exit)

    def _lost(self) -> None:
        if not self._closing:
            log.error("the launcher went away; its containers run on, their exit codes will be unknown")
            self._reconnecting = asyncio.ensure_future(self._reconnect())

    async def _reconnect(self) -> None:
        await self.link.connect()
        known = {process.key: process for process in await self.link.processes()}
        for key, live in list(self._live.items()):
            process = known.get(key)
            if key in self._homes:
                continue
            if process is None or process.pid != live.pid:
                self._watch(live)
            elif process.exited:
                self._finish(live, process.exited)

    async def shutdown(self) -> None:
        """End the launchers, which must have no live process left."""
        self._closing = True
        for link in (*self._earlier, self.link):
            with contextlib.suppress(*(() if link is self.link else (Unavailable,))):  # one that had nothing left
                for process in await link.processes():
                    link.ack(process.key)
                await link.shutdown()

    def close(self) -> None:
        """Let go of everything; processes run on."""
        self._closing = True
        if self._reconnecting:
            self._reconnecting.cancel()
        for task in self._retiring:
            task.cancel()
        for link in (*self._earlier, self.link):
            link.close()
        for live in self._live.values():
            live.release()


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    reader.callback(os.close, read_end)
    writer.callback(os.close, write_end)
    return read_end, write_end


def _output_pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """Its writing end reads as well: with engine and launcher killed it fills, and ends no writer by SIGPIPE."""
    read_end, write_end = _pipe(reader, writer)
    both = os.open(f"/proc/self/fd/{write_end}", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(both, write_end, inheritable=False)
    os.close(both)
    return read_end, write_end


def _reopened(pid: int, output_inodes: Sequence[int]) -> dict[int, int]:
    """Reading ends of a process's output, by stream; without those that it has put something else in place of."""
    outputs: dict[int, int] = {}
    for stream, inode in zip((STDOUT, STDERR), output_inodes, strict=False):
        try:
            # O_PATH: it may be anything by now, a device too, and is not opened before that is known.
            place = os.open(f"/proc/{pid}/fd/{stream}", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(place)
            if stat.S_ISFIFO(status.st_mode) and status.st_ino == inode:
                outputs[stream] = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(place)
    return outputs


def start_time_of(pid: int) -> int:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; 0 when there is no such process (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - hot, and not a path anyone joins
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])

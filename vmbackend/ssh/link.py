"""Keep one SSH connection to a guest: make it, notice its end, make it again."""

import asyncio
import threading
from collections.abc import Callable

import paramiko

from vmbackend.errors import GuestUnreachable
from vmbackend.ssh.connection import GuestConnection

# A guest that restarts its network refuses for a moment; one that boots is waited for by its own announcement.
_RETRY_S = 1.0
# A connection made a moment too early hangs, so the first attempts are short; a busy guest gets longer ones.
_ANSWER_TIMEOUTS_S = (2.0, 4.0, 8.0, 15.0)
# The first attempt waits for the guest's word, or this long.
_FIRST_ATTEMPT_AFTER_S = 20.0

# A connection that another one overtook is dead, unless it answers within this time.
_RETIRING_ANSWER_TIMEOUT_S = 8.0

# A client of a connection that was lost waits for the next one so long before it hears why there is none.
_SUCCESSOR_TIMEOUT_S = 5.0

Connect = Callable[[float, Callable[[], None]], GuestConnection]
_Made = tuple[GuestConnection, asyncio.Event]


class GuestLink:
    """For one event loop, except `current`, `open_unix` and `suspect`, which any other thread may call.

    `connect` gets a time-out in seconds for the server's first word, and what to call when the connection is lost.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: GuestConnection | None = None
        self._attempt: asyncio.Future[GuestConnection] | None = None
        self._announced = asyncio.Event()
        self._connected = asyncio.Event()
        self._failures = 0
        self._loop = asyncio.get_running_loop()
        self._suspected = asyncio.Event()
        self._changed = threading.Condition()
        self._was_connected = False
        self._given_up = False
        self._retiring: dict[asyncio.Task[None], GuestConnection] = {}
        self._task = asyncio.create_task(self._keep())
        self.problem: str | None = "SSH to the guest has not been tried yet"

    def announce(self, patiently: bool = False) -> None:
        """The guest's SSH server is up: do not wait any longer with the next attempt.

        `patiently` for one that was up before, and at most takes its time: nothing is gained by asking it again.
        """
        if patiently:
            self._failures = len(_ANSWER_TIMEOUTS_S)
        self._announced.set()

    async def wait_connected(self) -> None:
        await self._connected.wait()

    def current(self) -> GuestConnection:
        """Raises GuestUnreachable when there is no connection right now."""
        connection = self._connection
        if connection is None:
            raise GuestUnreachable(self.problem or "The SSH connection to the guest is being made")
        return connection

    def open_unix(self, path: str) -> paramiko.Channel:
        """A stream to a unix socket in the guest; not for the event loop's own thread.

        When the connection is lost, or turns out to be dead, the next one is waited for. Raises GuestUnreachable.
        """
        connection = self._wait_other_than(None)
        try:
            return connection.open_unix(path, self.suspect)
        except GuestUnreachable:
            if not connection.is_lost and connection is self._connection:
                raise
        return self._wait_other_than(connection).open_unix(path, self.suspect)

    def suspect(self) -> None:
        """Any thread: something was asked on the connection and not answered for a while.

        A guest that is slow keeps its connection; one that answers on a new connection sooner gets that one for new
        streams, and carries those of the old one to their ends if it was only busy.
        """
        self._loop.call_soon_threadsafe(self._suspected.set)

    def give_up(self) -> None:
        """There will be no other connection: who waits for one hears so now."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def rest(self, resting: bool) -> None:
        """Send nothing by ourselves to a guest that stands still: QEMU would give the connection up in the end."""
        if self._connection is not None:
            self._connection.keep_alive(not resting)

    async def close(self) -> None:
        """End the connection and make no new one. Quick once QEMU is gone, else bounded by an attempt's time-out."""
        self._task.cancel()
        await asyncio.wait([self._task])
        connections = {*self._retiring.values(), *((self._connection,) if self._connection else ())}
        if self._attempt is not None:
            await asyncio.wait([self._attempt])
            if self._attempt.exception() is None:
                connections.add(self._attempt.result())
        await asyncio.gather(*(asyncio.to_thread(connection.close) for connection in connections), *self._retiring)
        self._connection = None

    async def _keep(self) -> None:
        await self._wait_announced(_FIRST_ATTEMPT_AFTER_S)
        connection, lost = await self._make()
        while True:
            self._use(connection)
            successor = await self._until_over(connection, lost)
            self._use(successor[0] if successor else None)
            if successor:
                self._retire(connection)
            else:
                await asyncio.to_thread(connection.close)
            connection, lost = successor or await self._make()

    def _retire(self, connection: GuestConnection) -> None:
        task = asyncio.create_task(asyncio.to_thread(connection.retire, _RETIRING_ANSWER_TIMEOUT_S))
        self._retiring[task] = connection
        task.add_done_callback(self._retiring.pop)

    async def _make(self) -> _Made:
        """A connection, and what is set when it is lost; tried until there is one."""
        while True:
            timeout_s = _ANSWER_TIMEOUTS_S[min(self._failures, len(_ANSWER_TIMEOUTS_S) - 1)]
            try:
                made = await self._try(timeout_s)
            except (GuestUnreachable, paramiko.SSHException, OSError) as error:
                self._failures += 1
                self.problem = str(error)
                await self._wait_announced(_RETRY_S)
                continue
            self._failures = 0
            return made

    async def _try(self, timeout_s: float) -> _Made:
        lost = asyncio.Event()

        def on_lost() -> None:
            self._loop.call_soon_threadsafe(lost.set)

        # Shielded: a thread cannot be cancelled, so `close` waits for what it brings.
        self._attempt = asyncio.ensure_future(asyncio.to_thread(self._connect, timeout_s, on_lost))
        return await asyncio.shield(self._attempt), lost

    async def _until_over(self, connection: GuestConnection, lost: asyncio.Event) -> _Made | None:
        """Until the connection is lost, or found dead; in that case what comes after it."""
        losing = asyncio.create_task(lost.wait())
        try:
            while not lost.is_set():
                suspecting = asyncio.create_task(self._suspected.wait())
                await asyncio.wait([losing, suspecting], return_when=asyncio.FIRST_COMPLETED)
                suspecting.cancel()
                if self._suspected.is_set() and not lost.is_set():
                    if successor := await self._overtake(connection):
                        return successor
                    self._suspected.clear()
            return None
        finally:
            losing.cancel()
            self._suspected.clear()

    async def _overtake(self, connection: GuestConnection) -> _Made | None:
        """A new connection, if the guest answers on that before it answers on this one."""
        answering = asyncio.create_task(asyncio.to_thread(connection.answers, _ANSWER_TIMEOUTS_S[-1]))
        trying = asyncio.create_task(self._try(_ANSWER_TIMEOUTS_S[-1]))
        try:
            await asyncio.wait([answering, trying], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and trying.exception() is None:
                return trying.result()
            await asyncio.wait([answering, trying])
            if trying.exception() is None:
                await asyncio.to_thread(trying.result()[0].close)
            return None
        finally:
            trying.cancel()

    def _use(self, connection: GuestConnection | None) -> None:
        with self._changed:
            self._connection = connection
            self.problem = None if connection else "The SSH connection to the guest was lost"
            self._was_connected = True
            self._changed.notify_all()
        if connection:
            self._connected.set()
        else:
            self._connected.clear()

    def _wait_other_than(self, lost: GuestConnection | None) -> GuestConnection:
        with self._changed:
            if self._was_connected:
                self._changed.wait_for(
                    lambda: self._given_up or self._connection not in (None, lost), _SUCCESSOR_TIMEOUT_S
                )
            return self.current()

    async def _wait_announced(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._announced.wait()
        except TimeoutError:
            pass
        self._announced.clear()

"""Keep one SSH connection to a guest: make it, notice its end, make it again."""

import asyncio
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

Connect = Callable[[float, Callable[[], None]], GuestConnection]


class GuestLink:
    """For one event loop, except `current`, which any thread may call.

    `connect` gets a time-out in seconds for the server's first word, and what to call when the connection is lost.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: GuestConnection | None = None
        self._attempt: asyncio.Future[GuestConnection] | None = None
        self._announced = asyncio.Event()
        self._connected = asyncio.Event()
        self._failures = 0
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

    def rest(self, resting: bool) -> None:
        """Send nothing by ourselves to a guest that stands still: QEMU would give the connection up in the end."""
        if self._connection is not None:
            self._connection.keep_alive(not resting)

    async def drop_if_dead(self, timeout_s: float) -> None:
        """Give the connection up when the guest does not answer on it; a new one follows."""
        connection = self._connection
        if connection is not None and not await asyncio.to_thread(connection.answers, timeout_s):
            await asyncio.to_thread(connection.close)

    async def close(self) -> None:
        """End the connection and make no new one. Quick once QEMU is gone, else bounded by an attempt's time-out."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._attempt is not None:
            await asyncio.wait([self._attempt])
            if self._attempt.exception() is None:
                await asyncio.to_thread(self._attempt.result().close)
        self._connection = None

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        await self._wait_announced(_FIRST_ATTEMPT_AFTER_S)
        while True:
            lost = asyncio.Event()

            def on_lost(event: asyncio.Event = lost) -> None:
                loop.call_soon_threadsafe(event.set)

            timeout_s = _ANSWER_TIMEOUTS_S[min(self._failures, len(_ANSWER_TIMEOUTS_S) - 1)]
            try:
                # Shielded: a thread cannot be cancelled, so `close` waits for what it brings.
                self._attempt = asyncio.ensure_future(asyncio.to_thread(self._connect, timeout_s, on_lost))
                self._connection = await asyncio.shield(self._attempt)
            except (GuestUnreachable, paramiko.SSHException, OSError) as error:
                self._failures += 1
                self.problem = str(error)
                await self._wait_announced(_RETRY_S)
                continue
            self._failures = 0
            self.problem = None
            self._connected.set()
            await lost.wait()
            self._connected.clear()
            self.problem = "The SSH connection to the guest was lost"
            dead, self._connection = self._connection, None
            await asyncio.to_thread(dead.close)

    async def _wait_announced(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._announced.wait()
        except TimeoutError:
            pass
        self._announced.clear()

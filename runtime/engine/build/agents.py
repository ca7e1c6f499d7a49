"""SSH agents that clients lend for `RUN --mount=type=ssh`.

A client keeps a connection of its own open for each agent. Requests of commands go to it one at a time, whole, as the
agent protocol frames them (draft-miller-ssh-agent: a length of four bytes, then that many); so do its answers back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from runtime.errors import InvalidParameter

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 256 << 10  # OpenSSH's AGENT_MAX_LEN
ANSWER_TIMEOUT_S = 120.0  # somebody may have to confirm the use of a key
FAILURE = b"\x00\x00\x00\x01\x05"  # SSH_AGENT_FAILURE


class Source(Protocol):
    async def readexactly(self, size: int, /) -> bytes: ...


async def message(source: Source) -> bytes:
    """The next message with its length. Raises IncompleteReadError at the end, InvalidParameter."""
    head = await source.readexactly(4)
    size = int.from_bytes(head, "big")
    if not 1 <= size <= MESSAGE_BYTES_MAX:
        raise InvalidParameter(f"a message of an SSH agent has {size} bytes: {MESSAGE_BYTES_MAX} at most")
    return head + await source.readexactly(size)


class Agent:
    """One that is lent, at the other end of a connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._one_at_a_time = asyncio.Lock()
        self._answer: asyncio.Future[bytes] | None = None
        self.gone = asyncio.Event()

    async def ask(self, request: bytes) -> bytes:
        """Its answer; that of an agent that refuses, once the client has gone."""
        async with self._one_at_a_time:
            if self.gone.is_set():
                return FAILURE
            self._answer = asyncio.get_running_loop().create_future()
            self._writer.write(request)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await asyncio.shield(self._answer)
            except TimeoutError:
                log.info("a lent SSH agent does not answer within %s s", ANSWER_TIMEOUT_S)
                self.end()  # a late answer would be taken for that of the next request
                return FAILURE

    def answered(self, answer: bytes) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(answer)

    def end(self) -> None:
        self.gone.set()
        self.answered(FAILURE)


class Agents:
    """Those lent at the moment, by the token their client chose."""

    def __init__(self) -> None:
        self._lent: dict[str, Agent] = {}

    async def lend(self, token: str, reader: Source, writer: asyncio.StreamWriter) -> None:
        """Returns when the agent is not needed any more, or has gone. Raises InvalidParameter for what is no agent."""
        agent = self._lent[token] = Agent(writer)
        passing = asyncio.create_task(_pass_answers(reader, agent))
        gone = asyncio.create_task(agent.gone.wait())
        try:
            await asyncio.wait((passing, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._lent.pop(token, None)
            agent.end()
            passing.cancel()
            gone.cancel()
            await asyncio.gather(passing, gone, return_exceptions=True)

    @contextlib.contextmanager
    def taken(self, tokens: Mapping[str, str]) -> Iterator[dict[str, Agent]]:
        """The agents of one build by their ids, given back in the end. Raises InvalidParameter."""
        agents = {}
        for id, token in tokens.items():
            if token not in self._lent:
                raise InvalidParameter(f"the SSH agent {id} is not lent: its connection has ended")
            agents[id] = self._lent[token]
        try:
            yield agents
        finally:
            for agent in agents.values():
                agent.end()


async def _pass_answers(reader: Source, agent: Agent) -> None:
    try:
        while True:
            agent.answered(await message(reader))
    except (OSError, EOFError, InvalidParameter) as error:
        log.debug("a lent SSH agent has gone: %s", error)


@contextlib.asynccontextmanager
async def offered(agent: Agent, path: Path, owner: tuple[int, int], mode: int) -> AsyncIterator[None]:
    """The agent at a socket, which is made at `path`."""
    clients: set[asyncio.Task[None]] = set()
    exchanges: set[asyncio.Future[bytes]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        clients.add(task)
        try:
            while True:
                request = await message(reader)
                exchange = asyncio.ensure_future(agent.ask(request))  # runs to its end though the command does not
                exchanges.add(exchange)
                exchange.add_done_callback(exchanges.discard)
                writer.write(await asyncio.shield(exchange))
                await writer.drain()
        except (OSError, EOFError, InvalidParameter, asyncio.CancelledError):
            pass  # it has hung up, or its command has ended
        finally:
            clients.discard(task)
            writer.close()

    directory_fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # a path of a socket has 107 bytes at most: this one is short
        server = await asyncio.start_unix_server(serve, f"/proc/self/fd/{directory_fd}/{path.name}")
    finally:
        os.close(directory_fd)
    try:
        os.chown(path, *owner)
        path.chmod(stat.S_IMODE(mode))
        yield
    finally:
        server.close()
        for client in list(clients):
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        path.unlink(missing_ok=True)

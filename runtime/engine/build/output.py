"""What a build tells its client, in the order of the Dockerfile although stages are built at the same time."""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from runtime.engine.distribution.progress import Progress
from runtime.engine.stdio import STDERR

BEHIND_MAX = 256  # lines a client may be behind before the build waits


@dataclass(frozen=True)
class Text:
    """Part of the log; what a command wrote to standard error is told apart."""

    text: str
    is_stderr: bool = False


@dataclass(frozen=True)
class ImageMade:
    image_id: str


@dataclass(frozen=True)
class Pulling:
    batch: Sequence[Progress]


Message = Text | ImageMade | Pulling


class BuildOutput:
    """Parts, one a stage, in order: what a part says is passed on once the parts before it have ended."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._parts: deque[Part] = deque()
        self._order = asyncio.Lock()  # held while something is passed on, so that nothing overtakes it

    def part(self) -> Part:
        part = Part(self)
        self._parts.append(part)
        return part

    async def say(self, part: Part, message: Message) -> None:
        async with self._order:
            if self._parts and self._parts[0] is part:
                await self._pass_on(message)
            else:
                part.waiting.append(message)

    async def part_ended(self) -> None:
        async with self._order:
            while self._parts:
                first = self._parts[0]
                for message in first.waiting:
                    await self._pass_on(message)
                first.waiting = []
                if not first.ended:
                    return
                self._parts.popleft()

    async def _pass_on(self, message: Message) -> None:
        while self._queue.qsize() >= BEHIND_MAX:
            self._taken.clear()
            await self._taken.wait()
        self._queue.put_nowait(message)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def messages(self) -> AsyncIterator[Message]:
        while (message := await self._queue.get()) is not None:
            self._taken.set()
            yield message


class Part:
    def __init__(self, output: BuildOutput) -> None:
        self._output = output
        self.waiting: list[Message] = []
        self.ended = False
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: decoder("replace") for stream in (1, 2)}

    async def say(self, text: str) -> None:
        await self._output.say(self, Text(text))

    async def tell(self, message: Message) -> None:
        await self._output.say(self, message)

    async def pass_on(self, stream: int, data: bytes) -> None:
        """What a command wrote; characters may be cut anywhere."""
        if text := self._decoders[stream].decode(data):
            await self._output.say(self, Text(text, stream == STDERR))

    async def end(self) -> None:
        """Idempotent."""
        self.ended = True
        await self._output.part_ended()

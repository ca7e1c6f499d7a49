"""What is sent behind the head of a stream's answer."""

from __future__ import annotations

import asyncio
import socket

from runtime.api.stream import until_taken


def test_output_waits_until_the_head_is_taken() -> None:
    async def exchange() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            _, writer = await asyncio.open_connection(sock=ours)
            writer.write(b"head")
            waiting = asyncio.ensure_future(until_taken(writer))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not waiting.done()
            assert theirs.recv(100) == b"head"
            await waiting
            writer.close()
            await until_taken(writer)  # nobody is left to take it
            await writer.wait_closed()

    asyncio.run(exchange())

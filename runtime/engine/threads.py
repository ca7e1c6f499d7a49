"""Waiting for what worker threads do."""

from __future__ import annotations

import asyncio
from typing import TypeVar

Result = TypeVar("Result")


async def to_the_end(work: asyncio.Future[Result]) -> Result:
    """A thread cannot be cancelled, and what it uses has to stay until it is done, however often who waits is told."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as again:
            cancelled = again
    if cancelled is not None:
        work.exception()  # looked at, so that nobody misses it: who cancelled does not ask any more
        raise cancelled
    return work.result()

"""What a build tells, as lines of Docker's JSON message stream, and entries of the build cache."""

from __future__ import annotations

from runtime.api.wire.progress import message_line, progress_lines
from runtime.api.wire.times import timestamp
from runtime.engine.build.cache import CacheEntry
from runtime.engine.build.output import ImageMade, Message, Text
from runtime.engine.build.stage import CommandFailed

CACHE_TYPE = "regular"
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"  # moby's StderrFormatter


def build_line(message: Message) -> bytes:
    if isinstance(message, Text):
        return message_line({"stream": f"{_RED}{message.text}{_PLAIN}" if message.is_stderr else message.text})
    if isinstance(message, ImageMade):
        return message_line({"aux": {"ID": message.image_id}})
    return progress_lines(message.batch)


def build_error(error: Exception, message: str) -> bytes:
    detail: dict[str, object] = {"message": message}
    if isinstance(error, CommandFailed):
        detail = {"code": error.code, "message": message}
    return message_line({"errorDetail": detail, "error": message})


def cache_entry(key: str, entry: CacheEntry) -> dict[str, object]:
    return {
        "ID": key,
        "Parents": [entry.parent] if entry.parent else [],
        "Type": CACHE_TYPE,
        "Description": entry.description,
        "InUse": False,
        "Shared": False,
        "Size": entry.size_bytes,
        "CreatedAt": timestamp(entry.created_ns),
        "LastUsedAt": timestamp(entry.used_ns),
        "UsageCount": entry.uses,
    }

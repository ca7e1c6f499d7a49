"""Container logs: written to files on the engine's side of the pipes, read back by any number of clients."""

from runtime.engine.logs.journal import Journal
from runtime.engine.logs.place import finish_writing, log_path, open_log
from runtime.engine.logs.reader import Lines, LogQuery, Render, read_log
from runtime.engine.logs.records import rfc3339_nano
from runtime.engine.logs.writer import Log, LogWriter

__all__ = [
    "Journal",
    "Lines",
    "Log",
    "LogQuery",
    "LogWriter",
    "Render",
    "finish_writing",
    "log_path",
    "open_log",
    "read_log",
    "rfc3339_nano",
]

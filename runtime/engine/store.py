"""The engine's durable state: JSON documents by kind and id in SQLite (WAL).

No write waits for the disk (`synchronous=NORMAL` syncs at checkpoints only): a power cut may lose the last moments,
never the file's consistency. https://www.sqlite.org/wal.html

A disk may refuse a write, being full or gone read-only. `put` is for what can be refused then, `note` for what has
happened whether it can be written or not: that is kept, and written later.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from runtime.engine.migrations import MIGRATIONS, SCHEMA_VERSION
from runtime.errors import SystemFault, WherryError

log = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["container", "volume", "network", "embedded", "cgroup", "build"]


class Store:
    """One per data root. Raises SystemFault for a file that is damaged or from a newer Wherry."""

    def __init__(self, path: Path) -> None:
        self.on_late: Callable[[], None] = lambda: None  # called when `write_late` will be needed
        self._path = path
        self._late: dict[tuple[Kind, str], str | None] = {}  # the latest of each object, in the order of their change
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise SystemFault(self._why_not(error)) from None
        try:
            self._open(path)
        except BaseException:
            self._db.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            # One engine at a time has this file, by its lock: so no locking in every statement, and no shared memory.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise SystemFault(
                    f"{path} was written by a newer Wherry (schema {version}, this one knows {SCHEMA_VERSION}): "
                    "start that version, or give another --data-root"
                )
            if version == 0:
                self._create()
            elif version < SCHEMA_VERSION:
                self._migrate(path, version)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # the disk's fault
                raise SystemFault(self._why_not(error)) from None
            raise SystemFault(
                f"the engine's store {path} cannot be read ({error}): restore it from a backup, or move it away "
                "to start with no containers; images are kept"
            ) from None

    def _create(self) -> None:
        with self._transaction():
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS objects "
                "(kind TEXT, id TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID"
            )
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _migrate(self, path: Path, version: int) -> None:
        """All steps or none; the store as it was stays beside it, for those who go back to the older Wherry."""
        backup = path.with_name(f"{path.name}.schema-{version}")
        backup.unlink(missing_ok=True)
        self._db.execute("VACUUM INTO ?", (str(backup),))
        with self._transaction():
            try:
                for step in MIGRATIONS[version - 1 :]:
                    step(self._db)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise SystemFault(
                    f"the engine's store {path} of schema {version} cannot be brought to schema {SCHEMA_VERSION}: "
                    f"{type(error).__name__}: {error}; it is as it was: use the Wherry that wrote it, or move it away "
                    "to start with no containers; images are kept"
                ) from error
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        log.info("brought %s from schema %d to %d; %s is as it was", path, version, SCHEMA_VERSION, backup)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it at once
                self._db.execute("ROLLBACK")
            raise

    def put(self, kind: Kind, id: str, value: dict[str, Any]) -> None:
        """Raises SystemFault when the disk refuses it; then nothing has changed."""
        try:
            self._write(self._late | {(kind, id): _text(value)})
        except sqlite3.DatabaseError as error:
            raise SystemFault(self._why_not(error)) from None

    def note(self, kind: Kind, id: str, value: dict[str, Any] | None) -> bool:
        """What has happened to an object, None when it is gone; False when the disk takes it only later."""
        change = {(kind, id): None if value is None else _text(value)}
        try:
            self._write(self._late | change)
        except sqlite3.DatabaseError as error:
            if not self._late:
                log.error("%s; what happens until then is kept in memory", self._why_not(error))
                self.on_late()
            self._late |= change
            return False
        return True

    def write_late(self) -> bool:
        """Write what could not be written before; False when that still does not go."""
        try:
            if self._late:
                self._write(self._late)
        except sqlite3.DatabaseError:
            return False
        return True

    def _write(self, changes: Mapping[tuple[Kind, str], str | None]) -> None:
        """All or none; late ones are among them."""
        if len(changes) == 1:  # a transaction of its own
            self._apply(changes)
        else:
            with self._transaction():
                self._apply(changes)
        if self._late:
            log.warning("%s is written again; %d changes had waited for that", self._path, len(self._late))
            self._late = {}

    def _apply(self, changes: Mapping[tuple[Kind, str], str | None]) -> None:
        for (kind, id), text in changes.items():
            if text is None:
                self._db.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (kind, id))
            else:
                self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", (kind, id, text))

    def _why_not(self, error: sqlite3.DatabaseError) -> str:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return f"no space left on device: the engine's store {self._path} cannot be written: free some disk space"
        return (
            f"the engine's store {self._path} cannot be written ({error}): see in the kernel's log (dmesg) whether its "
            "disk has failed or become read-only"
        )

    def get(self, kind: Kind, id: str) -> dict[str, Any] | None:
        if (kind, id) in self._late:
            late = self._late[kind, id]
            return json.loads(late) if late else None
        row = self._db.execute("SELECT value FROM objects WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return json.loads(row[0]) if row else None

    def ids(self, kind: Kind) -> set[str]:
        return {id for (id,) in self._db.execute("SELECT id FROM objects WHERE kind = ?", (kind,))}

    def all(self, kind: Kind, read: Callable[[str, Any], T]) -> dict[str, T]:
        """Every object of a kind by its id, as `read(id, document)` makes it.

        One that cannot be read stays in the store and is left out: it must not keep the others from being served.
        """
        found = {}
        for id, text in self._db.execute("SELECT id, value FROM objects WHERE kind = ?", (kind,)).fetchall():
            try:
                found[id] = read(id, json.loads(text))
            except (WherryError, KeyError, TypeError, AttributeError, ValueError) as error:
                log.error(
                    "%s %s cannot be read from %s (%s: %s) and is left out; its files are kept for the Wherry that "
                    "wrote it",
                    *(kind, id, self._path, type(error).__name__, error),
                )
        return found

    def close(self) -> None:
        if not self.write_late():
            log.error("%s was never written again: %d changes are lost", self._path, len(self._late))
        self._db.close()


_text: Callable[[dict[str, Any]], str] = json.JSONEncoder(separators=(",", ":")).encode

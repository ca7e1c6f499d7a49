"""The engine's durable state: JSON documents by kind and id in SQLite (WAL).

No write waits for the disk (`synchronous=NORMAL` syncs at checkpoints only): a power cut may lose the last moments,
never the file's consistency. https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from runtime.engine.migrations import MIGRATIONS, SCHEMA_VERSION
from runtime.errors import SystemFault

log = logging.getLogger(__name__)

Kind = Literal["container", "volume", "network", "embedded", "cgroup"]


class Store:
    """One per data root. Raises SystemFault for a file that is damaged or from a newer Wherry."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
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
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def put(self, kind: Kind, id: str, value: dict[str, Any]) -> None:
        text = json.dumps(value, separators=(",", ":"))
        self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", (kind, id, text))

    def delete(self, kind: Kind, id: str) -> None:
        self._db.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (kind, id))

    def get(self, kind: Kind, id: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT value FROM objects WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return json.loads(row[0]) if row else None

    def all(self, kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
        for id, text in self._db.execute("SELECT id, value FROM objects WHERE kind = ?", (kind,)).fetchall():
            yield id, json.loads(text)

    def close(self) -> None:
        self._db.close()

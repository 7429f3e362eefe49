"""Store and forward: messages wait in SQLite until the cloud has acknowledged them.

Rules:
- One connection, one process, WAL, ``synchronous=FULL``: what was appended survives a power cut.
- Each row proves itself by a CRC-32; a row that does not is dropped and counted. A damaged file is set
  aside (one is kept) and a new one begun; on a disk that cannot be written rows wait in memory. The
  daemon always starts.
- Bounded in bytes. Over the bound, windows that were never sent merge, oldest first; only then rows are
  evicted: events, then windows (a merged one holds many), reports last. What is lost is counted and told.
- A row leaves when it is acknowledged. Its key is (boot epoch, sequence number), never the row's
  position: a torn WAL may lose a suffix, and positions then come again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterable
from pathlib import Path

from agent.adapters import disk
from agent.buffer import merging
from agent.core.commands import Append
from agent.core.events import BufferTrimmed, Row
from agent.errors import DiskError

ROW_OVERHEAD_BYTES = 160
_LOW_WATER = 0.9
_MERGE_ROWS = 64
_FREE_PAGES = 256
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter: a message that quotes damaged bytes
_DISK_REFUSES = ("readonly", "unable to open", "I/O", "full", "locked")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    crc INTEGER NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,
    UNIQUE (epoch, seq)
) STRICT
"""
_SIZE = f"length(payload) + {ROW_OVERHEAD_BYTES}"


class Buffer:
    """The buffer.

    Args:
        path: the database file.
        max_bytes: bound on rows, payloads with their overhead.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._merged = self._evicted = self._damaged = 0
        self.quarantined = ""
        try:
            self._db = self._open()
        except _ERRORS as error:
            self._db = self._begin_anew(error)
        self._bytes, self._rows = self._measure()

    def __len__(self) -> int:
        return self._rows

    @property
    def size_bytes(self) -> int:
        """Rows and payloads, with their overhead."""
        return self._bytes

    @property
    def used_fraction(self) -> float:
        """Share of the bound that is in use."""
        return self._bytes / self._max_bytes

    def append(self, message: Append) -> None:
        """Keep a message; when that is impossible it is counted as lost."""
        crc = _crc(message.boot_epoch, message.seq, message.kind, message.payload)
        row = (message.boot_epoch, message.seq, message.kind, message.payload, crc)
        try:
            with self._db:
                cursor = self._db.execute(
                    "INSERT OR IGNORE INTO rows (epoch, seq, kind, payload, crc) VALUES (?,?,?,?,?)",
                    row,
                )
            self._count(cursor.rowcount, cursor.rowcount * _size(message.payload))
            if self._bytes > self._max_bytes:
                self._trim()
        except _ERRORS as error:
            self._failed(error)
            self._evicted += 1

    def load(self, after: int, limit: int) -> list[Row]:
        """Rows after a position, in order; from now on they count as sent."""
        try:
            found = self._select("position > ? ORDER BY position LIMIT ?", (after, limit))
            with self._db:
                self._db.executemany(
                    "UPDATE rows SET sent = 1 WHERE position = ? AND sent = 0",
                    [(row.position,) for row in found],
                )
        except _ERRORS as error:
            self._failed(error)
            return []
        return found

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """Drop acknowledged rows."""
        try:
            with self._db:
                for key in keys:
                    self._delete("epoch = ? AND seq = ?", key)
            self._give_back()
        except _ERRORS as error:
            self._failed(error)

    def take_trimmed(self) -> BufferTrimmed | None:
        """What was merged, evicted or damaged since the last call."""
        if not (self._merged or self._evicted or self._damaged):
            return None
        told = BufferTrimmed(merged=self._merged, evicted=self._evicted, damaged=self._damaged)
        self._merged = self._evicted = self._damaged = 0
        return told

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # --- rows ------------------------------------------------------------------------------------

    def _select(self, where: str, values: tuple[object, ...]) -> list[Row]:
        query = f"SELECT position, epoch, seq, kind, payload, crc FROM rows WHERE {where}"  # noqa: S608  the conditions are constants of this file
        good, bad = [], []
        for position, epoch, seq, kind, payload, crc in self._db.execute(query, values):
            if crc == _crc(epoch, seq, kind, payload):
                row = Row(position=position, boot_epoch=epoch, seq=seq, kind=kind, payload=payload)
                good.append(row)
            else:
                bad.append(position)
        if bad:
            with self._db:
                for position in bad:
                    self._delete("position = ?", (position,))
            self._damaged += len(bad)
        return good

    def _delete(self, where: str, values: tuple[object, ...]) -> None:
        query = f"DELETE FROM rows WHERE {where} RETURNING {_SIZE}"  # noqa: S608  as above
        sizes = [size for (size,) in self._db.execute(query, values)]
        self._count(-len(sizes), -sum(sizes))

    def _count(self, rows: int, size: int) -> None:
        self._rows += rows
        self._bytes += size

    # --- bound -----------------------------------------------------------------------------------

    def _trim(self) -> None:
        target = int(self._max_bytes * _LOW_WATER)
        while self._bytes > target and self._merge_some():
            pass
        for condition in ("kind = 'event'", "kind != 'reported'", "1"):
            while self._bytes > target and self._rows > 1:
                with self._db:
                    before = self._rows
                    self._delete(
                        f"position IN (SELECT position FROM rows WHERE {condition} "  # noqa: S608  as above
                        "ORDER BY position LIMIT 16)",
                        (),
                    )
                if self._rows == before:
                    break
                self._evicted += before - self._rows

    def _merge_some(self) -> bool:
        """Merge the oldest windows that were never sent; False when that gains nothing more."""
        rows = self._select(
            "kind = 'telemetry' AND sent = 0 ORDER BY position LIMIT ?", (_MERGE_ROWS,)
        )
        merged = merging.merge(rows)
        if len(merged) == len(rows):
            return False
        kept = {(row.boot_epoch, row.seq) for row in merged}
        with self._db:
            for row in rows:
                self._delete("position = ?", (row.position,))
            for row in merged:
                crc = _crc(row.boot_epoch, row.seq, row.kind, row.payload)
                self._db.execute(
                    "INSERT INTO rows (position, epoch, seq, kind, payload, crc) VALUES (?,?,?,?,?,?)",
                    (row.position, row.boot_epoch, row.seq, row.kind, row.payload, crc),
                )
                self._count(1, _size(row.payload))
        self._merged += len(rows) - len(kept)
        return True

    def _give_back(self) -> None:
        """Shrink the file once much of it is empty."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if free > _FREE_PAGES:
            self._db.execute(f"PRAGMA incremental_vacuum({free // 2})").fetchall()

    # --- file ------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level="DEFERRED", timeout=5.0)
        db.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 256")
            db.execute("PRAGMA journal_size_limit = 4194304")
            db.execute("PRAGMA cache_size = -512")
            _check(db)
            with db:
                db.execute(_SCHEMA)
            db.execute(f"SELECT position, epoch, seq, kind, crc, sent, {_SIZE} FROM rows LIMIT 1")  # noqa: S608  a constant
        except BaseException:
            db.close()
            raise
        return db

    def _measure(self) -> tuple[int, int]:
        query = f"SELECT coalesce(sum({_SIZE}), 0), count(*) FROM rows"  # noqa: S608  a constant
        size, rows = self._db.execute(query).fetchone()
        return int(size), int(rows)

    def _begin_anew(self, error: Exception) -> sqlite3.Connection:
        if any(sign in str(error) for sign in _DISK_REFUSES):
            return self._in_memory(error)
        self.quarantined = f"{self._path}: {error}; set aside, begun anew"
        self._damaged += 1
        try:
            for suffix in ("", "-wal", "-shm"):
                found = self._path.with_name(self._path.name + suffix)
                if found.exists():
                    disk.move(found, self._path.with_name(f"{self._path.name}.damaged{suffix}"))
            return self._open()
        except (*_ERRORS, DiskError) as again:
            return self._in_memory(again)

    def _in_memory(self, error: Exception) -> sqlite3.Connection:
        self.quarantined = f"{self._path}: {error}; rows wait in memory until the next start"
        db = sqlite3.connect(":memory:")
        db.execute(_SCHEMA)
        return db

    def _failed(self, error: Exception) -> None:
        """Set a damaged file aside; a disk that is full or busy is only counted by the caller."""
        if isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
                self._bytes, self._rows = self._measure()
                return
        self._db.close()
        self._db = self._begin_anew(error)
        self._bytes, self._rows = self._measure()


def _check(db: sqlite3.Connection) -> None:
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _size(payload: bytes) -> int:
    return len(payload) + ROW_OVERHEAD_BYTES


def _crc(epoch: str, seq: int, kind: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(f"{epoch} {seq} {kind}".encode()))

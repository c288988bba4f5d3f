"""Connections to Postgres, and names in it. TLS is what the URL's `sslmode` says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import AdaptContext
from psycopg.rows import DictRow, dict_row

from .config import Section
from .faults import Fault

Connection = psycopg.Connection[DictRow]

#: Kept open between two uses; more are opened where handlers run side by side, and closed after use.
IDLE_CONNECTIONS_MAX = 2
#: One that rested for longer may have been cut by a proxy on the way, and is asked before it is used.
TRUSTED_SECONDS = 15.0
CONNECT_WAIT_SECONDS = 10


class Database:
    """A Postgres database. Any thread may use it."""

    def __init__(self, url: str, *, application: str, statement_timeout_seconds: float = 60.0) -> None:
        self._url = url
        self._application = application
        self._statement_timeout_ms = round(statement_timeout_seconds * 1000)
        self._idle: list[tuple[Connection, float]] = []
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commits at the end of the block; whatever it raises rolls back."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit; what is set on it is the next one's too."""
        connection = self._take()
        try:
            yield connection
        except BaseException:
            # What state it is in is not worth knowing.
            connection.close()
            raise
        self._give_back(connection)

    def _take(self) -> Connection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if time.monotonic() - since < TRUSTED_SECONDS or _lives(connection):
                return connection
        return self.connect()

    def connect(self) -> Connection:
        """One more, which the caller closes."""
        try:
            connection: Connection = psycopg.connect(
                self._url,
                autocommit=True,
                row_factory=dict_row,
                # A pooler that gives each transaction another server knows no prepared statements.
                prepare_threshold=None,
                connect_timeout=CONNECT_WAIT_SECONDS,
                application_name=self._application,
                keepalives_idle=30,
            )
        except psycopg.OperationalError as fault:
            raise Fault(f"the database cannot be reached: {str(fault).strip()}") from fault
        # Not as a startup option, which some poolers refuse.
        connection.execute("select set_config('statement_timeout', %s, false)", [str(self._statement_timeout_ms)])
        return connection

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not connection.closed and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()

    def close(self) -> None:
        """Those that rest; those in use are closed when they are given back, or with the process."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()


def _lives(connection: Connection) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.Error:
        connection.close()
        return False
    return True


class Name(sql.Identifier):
    """A quoted identifier in a statement that has parameters, if only an empty list: a % in it is doubled."""

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        """See `sql.Composable`."""
        return super().as_bytes(context).replace(b"%", b"%%")


@dataclass(frozen=True)
class Table:
    """A table's name. It reaches a statement only as a quoted identifier."""

    parts: tuple[str, ...]

    @property
    def sql(self) -> sql.Identifier:
        """Quoted."""
        return Name(*self.parts)

    def __str__(self) -> str:
        return ".".join(self.parts)


def table(section: Section, key: str) -> Table:
    """`schema.name`, or `name`; a list where a name has a dot in it."""
    parts = section.texts(key, None)
    if len(parts) == 1:
        parts = tuple(parts[0].split("."))
    if len(parts) > 2 or not all(_is_name(part) for part in parts):
        section.fault(key, f"must be a table as schema.name or name, not {'.'.join(parts)!r}")
    return Table(parts)


def columns(section: Section, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Columns' names."""
    names = section.texts(key, default)
    for name in names:
        if not _is_name(name):
            section.fault(key, f"{name!r} is no column's name")
    return names


def _is_name(text: str) -> bool:
    return 0 < len(text.encode()) <= 63 and "\0" not in text


def comma(parts: list[sql.Composable]) -> sql.Composed:
    """Joined by commas."""
    return sql.SQL(", ").join(parts)


def names(of: tuple[str, ...], prefix: str | None = None) -> sql.Composed:
    """Columns, quoted, joined by commas; of a table's alias where there is a prefix."""
    return comma([name(one, prefix) for one in of])


def name(of: str, prefix: str | None = None) -> sql.Composable:
    """A column, quoted."""
    return Name(prefix, of) if prefix else Name(of)


def one(connection: Connection, query: sql.Composed | sql.SQL, values: Any = None) -> DictRow:
    """The first row of a statement that gives one."""
    row = connection.execute(query, values).fetchone()
    if row is None:
        raise Fault("the database gave no row where it must give one")
    return row

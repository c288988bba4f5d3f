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
from psycopg_pool import ConnectionPool, PoolTimeout

from .config import Section
from .faults import Fault, Unavailable

Connection = psycopg.Connection[DictRow]

#: A connection that rested for longer may have been cut by a proxy on the way, and is asked before it is used.
TRUSTED_SECONDS = 15.0
#: A connection that nobody used for so long is closed.
IDLE_SECONDS = 60.0
CONNECT_WAIT_SECONDS = 10
#: A block that waits for a connection waits for so long: others have them all, or the database is away.
TAKE_WAIT_SECONDS = 10.0
CLOSE_WAIT_SECONDS = 2.0
#: Where nobody says how many are used at once.
CONNECTIONS_MAX = 20


class Resting(psycopg.Connection[DictRow]):
    """A connection of the pool's, which knows since when it rests."""

    rested_at = 0.0


class Database:
    """A Postgres database. Any thread may use it."""

    def __init__(
        self, url: str, *, application: str, statement_timeout_seconds: float = 60.0, connections_max: int = CONNECTIONS_MAX
    ) -> None:
        self._url = url
        self._statement_timeout_ms = round(statement_timeout_seconds * 1000)
        self._options: dict[str, Any] = {
            "autocommit": True,
            "row_factory": dict_row,
            # A pooler that gives each transaction another server knows no prepared statements.
            "prepare_threshold": None,
            "connect_timeout": CONNECT_WAIT_SECONDS,
            "application_name": application,
            "keepalives_idle": 30,
        }
        self._pool: ConnectionPool[Resting] = ConnectionPool(
            url,
            connection_class=Resting,
            kwargs=self._options,
            min_size=0,
            max_size=connections_max,
            max_idle=IDLE_SECONDS,
            timeout=TAKE_WAIT_SECONDS,
            # After this a waiting caller is told why; the next use begins anew.
            reconnect_timeout=TAKE_WAIT_SECONDS,
            num_workers=1,
            configure=self._configure,
            check=_check,
            name=application,
            open=False,
        )
        self._opening = threading.Lock()
        self._is_reached = False

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
            # The connection's state is not worth knowing: the pool drops a closed one.
            connection.close()
            raise
        finally:
            # Not by the pool's `reset`: that runs in its thread, and a close at that moment forgets the connection.
            connection.rested_at = time.monotonic()
            self._pool.putconn(connection)

    def _take(self) -> Resting:
        with self._opening:
            if not self._is_reached:
                # The pool connects in a thread of its own, and tells nobody why it cannot. This one tells at once.
                self.connect().close()
                self._pool.open()
                self._is_reached = True
        try:
            return self._pool.getconn()
        except PoolTimeout as late:
            self._is_reached = False
            self.connect().close()
            raise Unavailable(f"no connection to the database was free within {TAKE_WAIT_SECONDS:g} s") from late

    def connect(self) -> Connection:
        """One more, not of the pool's, which the caller closes: for a lock that lasts as long as its connection."""
        try:
            connection: Connection = psycopg.Connection[DictRow].connect(self._url, **self._options)
        except psycopg.OperationalError as fault:
            raise Unavailable(f"the database cannot be reached: {str(fault).strip()}") from fault
        self._configure(connection)
        return connection

    def _configure(self, connection: Connection) -> None:
        # Not as a startup option, which some poolers refuse.
        connection.execute("select set_config('statement_timeout', %s, false)", [str(self._statement_timeout_ms)])

    def close(self) -> None:
        """Connections that rest; a connection in use is closed when it is given back, or with the process."""
        self._pool.close(CLOSE_WAIT_SECONDS)


def _check(connection: Resting) -> None:
    """Raises where it does not live; the pool then makes another."""
    if connection.rested_at and time.monotonic() - connection.rested_at >= TRUSTED_SECONDS:
        ConnectionPool.check_connection(connection)


class Name(sql.Identifier):
    """A quoted identifier in a statement that has parameters, if only an empty list: a % in it is doubled."""

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        """See `sql.Composable`."""
        return super().as_bytes(context).replace(b"%", b"%%")


@dataclass(frozen=True)
class Table:
    """A table's name, which reaches a statement only as a quoted identifier."""

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

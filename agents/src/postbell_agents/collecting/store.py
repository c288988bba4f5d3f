"""Rows and state in the database, in one transaction: a run that is killed goes on with the page, or the row, after."""

from __future__ import annotations

from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from ..database import Connection, comma, name, names
from .sources import Source
from .state import State


def upsert(source: Source) -> sql.Composed:
    """Writes a JSON array of rows, but for those that are there already; Postgres reads each value as its column's type."""
    columns = tuple(source.fields)
    query = sql.SQL("insert into {table} as t ({columns}) select {columns} from jsonb_populate_recordset(null::{table}, %s)")
    insert = query.format(table=source.table.sql, columns=names(columns))
    if not source.key:
        return insert
    others = tuple(column for column in columns if column not in source.key)
    if not others:
        return sql.SQL("{} on conflict ({}) do nothing").format(insert, names(source.key))
    return sql.SQL("{} on conflict ({}) do update set {} where ({}) is distinct from ({})").format(
        insert,
        names(source.key),
        comma([sql.SQL("{} = excluded.{}").format(name(c), name(c)) for c in others]),
        names(others, "t"),
        names(others, "excluded"),
    )


def write(connection: Connection, source: Source, rows: list[dict[str, Any]]) -> int:
    """How many rows were new or other than before."""
    written = 0
    query = upsert(source)
    for start in range(0, len(rows), source.batch_rows):
        written += connection.execute(query, [Jsonb(rows[start : start + source.batch_rows])]).rowcount
    return written


def lock(connection: Connection, source: Source) -> bool:
    """Whether nobody else is at this source now. Held until the connection ends."""
    row = connection.execute(
        "select pg_try_advisory_lock(hashtextextended(%s, 0)) as is_ours", [f"postbell_agents.collecting {source.name}"]
    ).fetchone()
    return bool(row and row["is_ours"])


def load(connection: Connection, source: Source) -> tuple[State, float | None]:
    """The state, and how many seconds ago a run was finished."""
    row = connection.execute(
        "select state, extract(epoch from now() - finished_at)::float8 as finished_seconds_ago "
        "from postbell_agents.collecting_state where source = %s",
        [source.name],
    ).fetchone()
    return (State.of(row["state"]), row["finished_seconds_ago"]) if row else (State(), None)


def save(connection: Connection, source: Source, state: State, *, is_finished: bool) -> None:
    """Called in the transaction that wrote the rows."""
    connection.execute(
        """
        insert into postbell_agents.collecting_state as s (source, state, finished_at)
        values (%(source)s, %(state)s, case when %(finished)s then now() end)
        on conflict (source) do update
        set state = excluded.state, finished_at = coalesce(excluded.finished_at, s.finished_at), updated_at = now()
        """,
        {"source": source.name, "state": Jsonb(state.as_json()), "finished": is_finished},
    )

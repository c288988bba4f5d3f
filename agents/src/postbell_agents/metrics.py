"""Rows in agent_metrics: what an agent says of its own work. A few names each, one row a name and run."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from .database import Connection

#: The broker exports the latest value per agent and name, so names must stay few.
NAMES_MAX = 20


def forget(connection: Connection, schema: str, agent_id: str, days: int) -> None:
    """The agent's own rows of so long ago: nobody else removes them."""
    connection.execute(
        sql.SQL("delete from {} where agent_id = %s and recorded_at < now() - make_interval(days => %s)").format(
            sql.Identifier(schema, "agent_metrics")
        ),
        [agent_id, days],
    )


def write(connection: Connection, schema: str, agent_id: str, values: Mapping[str, tuple[float, str]]) -> None:
    """Name to value and unit."""
    assert len(values) <= NAMES_MAX, "a metric's name must not come from data"
    connection.cursor().executemany(
        sql.SQL(
            "insert into {} (agent_id, metric_type, metric_name, metric_value, metric_unit) values (%s, 'gauge', %s, %s, %s)"
        ).format(sql.Identifier(schema, "agent_metrics")),
        [(agent_id, name, value, unit) for name, (value, unit) in values.items()],
    )

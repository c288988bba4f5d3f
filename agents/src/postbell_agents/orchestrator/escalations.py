"""Alerts that nobody acknowledged: told again, until somebody does or they were told often enough."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from ..database import Connection


def insert(connection: Connection, alert_id: UUID, alert: Any) -> None:
    """One came; nothing where it is known."""
    connection.execute(
        "insert into postbell_agents.orchestrator_escalations (alert_id, alert) values (%s, %s) on conflict do nothing",
        [alert_id, Jsonb(alert)],
    )


def end_acknowledged(connection: Connection, schema: str) -> None:
    """Somebody looks at them, or they are over."""
    connection.execute(
        sql.SQL(
            """
            update postbell_agents.orchestrator_escalations e set ended_at = now()
            from {} a where a.alert_id = e.alert_id and e.ended_at is null and a.status <> 'active'
            """
        ).format(sql.Identifier(schema, "agent_alerts"))
    )


def due(connection: Connection, repeat_seconds: float) -> list[DictRow]:
    """Escalations to be told (again) now, the oldest first."""
    return connection.execute(
        """
        select alert_id, alert, told from postbell_agents.orchestrator_escalations
        where ended_at is null and (told_at is null or told_at <= now() - make_interval(secs => %s))
        order by created_at limit 100
        """,
        [repeat_seconds],
    ).fetchall()


def told(connection: Connection, alert_id: UUID, times_max: int) -> None:
    """The escalation was told; the last time ends it."""
    connection.execute(
        """
        update postbell_agents.orchestrator_escalations
        set told = told + 1, told_at = now(), ended_at = case when told + 1 >= %s then now() end
        where alert_id = %s
        """,
        [times_max, alert_id],
    )

"""How the mesh is, for whoever asks."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from ..database import Connection, one


def read(connection: Connection, schema: str) -> dict[str, Any]:
    """Agents by environment, tasks by status, open alerts by severity."""
    agents = connection.execute(
        sql.SQL(
            """
            select environment, count(*) as agents, count(*) filter (where status not in ('offline', 'error')) as alive
            from {} group by environment order by environment
            """
        ).format(sql.Identifier(schema, "agent_registry"))
    ).fetchall()
    tasks = connection.execute(
        "select status, count(*) as n from postbell_agents.orchestrator_tasks where answered_at is null group by status"
    ).fetchall()
    oldest = one(
        connection,
        sql.SQL(
            "select extract(epoch from clock_timestamp() - min(created_at))::float8 as seconds "
            "from postbell_agents.orchestrator_tasks where answered_at is null and status = 'waiting'"
        ),
    )["seconds"]
    alerts = connection.execute(
        sql.SQL("select severity, count(*) as n from {} where status <> 'resolved' group by severity").format(
            sql.Identifier(schema, "agent_alerts")
        )
    ).fetchall()
    return {
        "agents": {row["environment"]: {"agents": row["agents"], "alive": row["alive"]} for row in agents},
        "tasks": {row["status"]: row["n"] for row in tasks},
        "oldest_waiting_seconds": oldest,
        "alerts": {row["severity"]: row["n"] for row in alerts},
    }

"""The daily summary: what the mesh's tables say of the last day."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any

from psycopg import sql

from ..alerts import SEVERITIES
from ..database import Connection, one
from .sinks import Report


def due_day(now: datetime, at: time) -> date | None:
    """The day whose summary is due: from `at` on, in the zone of `now`."""
    return now.date() if now.time().replace(tzinfo=None) >= at else None


def claim(connection: Connection, agent_id: str, day: date) -> bool:
    """True for the one that is to send the summary of a day; undone with the caller's transaction if that fails."""
    row = connection.execute(
        "insert into postbell_agents.reporting_summaries (agent_id, day) values (%s, %s) on conflict do nothing returning 1",
        [agent_id, day],
    ).fetchone()
    return row is not None


def read(connection: Connection, schema: str) -> dict[str, Any]:
    """The numbers of the last 24 hours."""
    alerts = connection.execute(
        sql.SQL(
            """
            select severity, count(*) filter (where created_at > now() - interval '1 day') as opened,
                   count(*) filter (where status = 'resolved' and resolved_at > now() - interval '1 day') as resolved,
                   count(*) filter (where status <> 'resolved') as open
            from {} group by severity
            """
        ).format(sql.Identifier(schema, "agent_alerts"))
    ).fetchall()
    agents = connection.execute(
        sql.SQL(
            """
            select environment, count(*) as agents, count(*) filter (where status not in ('offline', 'error')) as alive
            from {} group by environment order by environment
            """
        ).format(sql.Identifier(schema, "agent_registry"))
    ).fetchall()
    messages = one(
        connection,
        sql.SQL(
            """
            select count(*) as sent, count(*) filter (where status = 'processed') as processed,
                   count(*) filter (where status = 'failed') as failed
            from {} where created_at > now() - interval '1 day'
            """
        ).format(sql.Identifier(schema, "agent_messages")),
    )
    by_severity = {row.pop("severity"): row for row in alerts}
    return {
        "alerts": {s: by_severity[s] for s in reversed(SEVERITIES) if s in by_severity},
        "agents": {row.pop("environment"): row for row in agents},
        "messages": messages,
    }


def report(day: date, numbers: dict[str, Any]) -> Report:
    """As text and as JSON."""
    open_ = sum(row["open"] for row in numbers["alerts"].values())
    lines = ["Alerts in the last 24 hours"]
    lines += [
        f"  {severity:10} opened {row['opened']}, resolved {row['resolved']}, open now {row['open']}"
        for severity, row in numbers["alerts"].items()
    ] or ["  none"]
    lines.append("Agents")
    lines += [f"  {where:10} {row['alive']} of {row['agents']} alive" for where, row in numbers["agents"].items()] or [
        "  none"
    ]
    of = numbers["messages"]
    lines.append(f"Messages in the last 24 hours\n  sent {of['sent']}, processed {of['processed']}, failed {of['failed']}")
    title = f"Summary of {day.isoformat()}: {open_} alert{'' if open_ == 1 else 's'} open"
    return Report(title, "\n".join(lines) + "\n", summary={"day": day.isoformat(), **numbers})

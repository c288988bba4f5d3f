"""Alerts that last as long as what they are about: one row in agent_alerts while a finding lasts, resolved when it is gone.

A finding is known by its key, kept in the row's details. Whatever inserts there is told to the mesh by the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from .database import Connection

SEVERITIES = ("low", "medium", "high", "critical")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and for how long is not said."""

    key: str
    severity: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lasting:
    """A finding with its alert, and how often it was sent as a message so far."""

    finding: Finding
    alert_id: UUID
    is_new: bool
    sent: int
    #: Since it was sent last; None: never.
    sent_seconds_ago: float | None


@dataclass(frozen=True)
class Plan:
    """The changes to be written."""

    opened: list[Finding]
    lasting: list[Finding]
    resolved: list[str]


def plan(open_keys: set[str], found: list[Finding], undecided: set[str]) -> Plan:
    """Decides what becomes of alerts, given the open ones and what was found now. Undecided alerts stay as they are."""
    keys = {finding.key for finding in found}
    return Plan(
        opened=[finding for finding in found if finding.key not in open_keys],
        lasting=[finding for finding in found if finding.key in open_keys],
        resolved=sorted(open_keys - keys - undecided),
    )


class Alerts:
    """The alerts of one agent and type."""

    def __init__(self, agent_id: str, alert_type: str, schema: str) -> None:
        self._agent_id = agent_id
        self._type = alert_type
        self._table = sql.Identifier(schema, "agent_alerts")

    def write(self, connection: Connection, found: list[Finding], undecided: set[str]) -> list[Lasting]:
        """Opens, keeps and resolves, in the caller's transaction; gives those that last."""
        # Two runs at once would open an alert each.
        connection.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"postbell_agents.alerts {self._agent_id} {self._type}"]
        )
        before = self._open(connection)
        planned = plan(set(before), found, undecided)
        for key in planned.resolved:
            self._resolve(connection, before[key]["alert_id"])
        for finding in planned.lasting:
            self._renew(connection, before[finding.key]["alert_id"], finding)
        new = {finding.key: self._insert(connection, finding) for finding in planned.opened}
        return [
            Lasting(f, new[f.key], True, 0, None)
            if f.key in new
            else Lasting(f, before[f.key]["alert_id"], False, int(before[f.key]["sent"]), before[f.key]["sent_seconds_ago"])
            for f in found
        ]

    def _open(self, connection: Connection) -> dict[str, dict[str, Any]]:
        rows = connection.execute(
            sql.SQL(
                """
                select alert_id, details->>'key' as key, coalesce((details->>'sent')::int, 0) as sent,
                       extract(epoch from now() - (details->>'sent_at')::timestamptz)::float8 as sent_seconds_ago
                from {} where agent_id = %s and alert_type = %s and status <> 'resolved' and details ? 'key'
                order by created_at
                """
            ).format(self._table),
            [self._agent_id, self._type],
        )
        return {row["key"]: row for row in rows}

    def _insert(self, connection: Connection, finding: Finding) -> UUID:
        row = connection.execute(
            sql.SQL(
                """
                insert into {} (agent_id, alert_type, severity, message, details) values (%s, %s, %s, %s, %s)
                returning alert_id
                """
            ).format(self._table),
            [self._agent_id, self._type, finding.severity, finding.message, Jsonb(_details(finding))],
        ).fetchone()
        assert row is not None
        alert_id: UUID = row["alert_id"]
        return alert_id

    def _renew(self, connection: Connection, alert_id: UUID, finding: Finding) -> None:
        # The severity stays: it was told, and another one would be another alert.
        connection.execute(
            sql.SQL("update {} set message = %s, details = details || %s where alert_id = %s").format(self._table),
            [finding.message, Jsonb(_details(finding)), alert_id],
        )

    def _resolve(self, connection: Connection, alert_id: UUID) -> None:
        connection.execute(
            sql.SQL("update {} set status = 'resolved', resolved_at = now(), resolved_by = %s where alert_id = %s").format(
                self._table
            ),
            [self._agent_id, alert_id],
        )

    def sent(self, connection: Connection, alert_id: UUID) -> None:
        """The finding went out as a message."""
        connection.execute(
            sql.SQL(
                """
                update {} set details = details || jsonb_build_object(
                  'sent', coalesce((details->>'sent')::int, 0) + 1, 'sent_at', now())
                where alert_id = %s
                """
            ).format(self._table),
            [alert_id],
        )


def _details(finding: Finding) -> dict[str, Any]:
    return {**finding.details, "key": finding.key}

"""The job: a finding comes, its fixes are tried or applied, each in one transaction with its row in the audit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import psycopg
from postbell import Dead, SyncAgent, SyncMessage
from psycopg.types.json import Jsonb

from ..config import Section
from ..database import Connection
from ..faults import Fault, Unavailable, sentence
from ..job import Job
from ..settings import Common, common
from ..tables import ensure
from . import statements
from .fixes import Fix, allowed, fixes

logger = logging.getLogger("postbell_agents.remediation")

KIND = "remediation"
AUDIT = "remediation_audit"


@dataclass(frozen=True)
class Applied:
    """The outcome of a fix."""

    fix: str
    dry_run: bool
    rows: int
    #: An earlier delivery of the same message did it.
    is_repeated: bool = False


class Remediation(Job):
    """See the module."""

    def __init__(self, common: Common, allowed: list[Fix], topic: str | None, audit_days: int) -> None:
        super().__init__(common)
        self._fixes = allowed
        self._topic = topic
        self._audit_days = audit_days
        self._rows = {True: 0, False: 0}

    @classmethod
    def of(cls, file: Section) -> Remediation:
        """Reads the file."""
        settings = common(file, KIND, every_seconds=3600.0, concurrency=2)
        section = file.section("remediation")
        return cls(
            settings,
            fixes(file, section.flag("dry_run", True)),
            section.text_or_none("topic"),
            section.whole("audit_days", 365, 1, 36_500),
        )

    def attach(self, agent: SyncAgent) -> None:
        """See `Job.attach`."""
        with self.common.database.connection() as connection:
            ensure(connection, AUDIT)
        super().attach(agent)
        agent.on("data", "alert")(self.on_finding)

    def work(self) -> dict[str, tuple[float, str]]:
        """Between the findings there is the audit to keep short."""
        with self.common.database.transaction() as connection:
            connection.execute(
                "delete from postbell_agents.remediation_audit where applied_at < now() - make_interval(days => %s)",
                [self._audit_days],
            )
        return {"rows_fixed": (self._rows[False], "rows"), "rows_tried": (self._rows[True], "rows")}

    def on_command(self, message: SyncMessage) -> None:
        """A command carries a finding too: `{"task": {"rule": …}}`, or the finding itself."""
        payload = message.payload
        task = payload.get("task") if isinstance(payload, dict) else None
        self._handle(message, task if isinstance(task, dict) else payload)

    def on_finding(self, message: SyncMessage) -> None:
        """See the module."""
        self._handle(message, message.payload)

    def _handle(self, message: SyncMessage, finding: Any) -> None:
        chosen = allowed(self._fixes, finding)
        try:
            done = [self._apply(message, fix) for fix in chosen]
        except Unavailable:
            # No fault of the finding's: it comes again.
            raise
        except (Fault, psycopg.DataError, psycopg.ProgrammingError, psycopg.IntegrityError) as fault:
            # The next attempt would end the same way: whoever wrote the fix must look at it.
            raise Dead(sentence(fault)) from fault
        self._tell(message, finding, done)

    def _apply(self, message: SyncMessage, fix: Fix) -> Applied:
        with self.common.database.transaction() as connection:
            applied = apply(connection, fix, message_id=message.id, asked_by=message.sender, agent_id=self.agent.name)
        if not applied.is_repeated:
            self._rows[fix.dry_run] += applied.rows
        logger.info("%s%s: %d rows", fix.name, " (dry run)" if fix.dry_run else "", applied.rows)
        return applied

    def _tell(self, message: SyncMessage, finding: Any, done: list[Applied]) -> None:
        payload = {
            "ok": True,
            "rule": finding.get("rule") if isinstance(finding, dict) else None,
            "fixes": [{"fix": a.fix, "dry_run": a.dry_run, "rows": a.rows} for a in done],
        }
        if message.type == "command" or message.correlation_id:
            self.answer(message, payload)
        if self._topic and done:
            self.agent.send(topic=self._topic, payload=payload, dedupe_key=f"fixed:{message.id}")


def apply(connection: Connection, fix: Fix, *, message_id: str, asked_by: str, agent_id: str) -> Applied:
    """Tries or applies a fix in the caller's transaction, and writes its row in the audit; nothing where it has one."""
    # The row first: another instance with the same message waits here for our commit.
    is_ours = connection.execute(
        "insert into postbell_agents.remediation_audit (message_id, fix, agent_id, asked_by, dry_run, rows, changes) "
        "values (%s, %s, %s, %s, %s, 0, '[]') on conflict do nothing returning 1",
        [message_id, fix.name, agent_id, asked_by, fix.dry_run],
    ).fetchone()
    key = [message_id, fix.name]
    if not is_ours:
        row = connection.execute(
            "select rows, dry_run from postbell_agents.remediation_audit where message_id = %s and fix = %s", key
        ).fetchone()
        return Applied(fix.name, bool(row and row["dry_run"]), int(row["rows"]) if row else 0, is_repeated=True)
    changes = _change(connection, fix)
    connection.execute(
        "update postbell_agents.remediation_audit set rows = %s, changes = %s where message_id = %s and fix = %s",
        [len(changes), Jsonb(changes), *key],
    )
    return Applied(fix.name, fix.dry_run, len(changes))


def _change(connection: Connection, fix: Fix) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = []
    query, values = statements.statement(fix)
    # The inner transaction is a savepoint: a dry run does all of it, and takes it back.
    with connection.transaction() as inner:
        changes = [_changed(row) for row in connection.execute(query, values)]
        if len(changes) > fix.rows_max:
            raise Fault(f"{fix.name} would change {len(changes)} rows, over its bound of {fix.rows_max}; nothing was changed")
        if fix.dry_run:
            raise psycopg.Rollback(inner)
    return changes


def _changed(row: dict[str, Any]) -> dict[str, Any]:
    if row.keys() == {"before", "after"}:
        return row
    # A named statement that gives back its rows as they are now.
    return {"before": None, "after": row["row"]}

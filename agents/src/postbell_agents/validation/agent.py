"""The job: measures every rule, keeps the alerts, sends the findings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import psycopg

from ..alerts import Alerts, Finding, Lasting
from ..config import Section
from ..database import Connection, one
from ..faults import Fault
from ..faults import sentence as sentence_of
from ..job import Job
from ..settings import Common, common
from . import statements
from .rules import SAMPLE_MAX, Measured, Rule, rules, sentence

logger = logging.getLogger("postbell_agents.validation")

KIND = "validation"
ALERT_TYPE = "data_quality"
#: By the severity of a finding: what is urgent overtakes what is not.
PRIORITIES = {"critical": 1, "high": 3, "medium": 5, "low": 7}


@dataclass(frozen=True)
class Outlet:
    """Where findings go as messages; one of the two, or neither."""

    to: str | None
    topic: str | None
    type: str
    #: A finding that lasts is sent again after so long; 0: once.
    repeat_seconds: float


class Validation(Job):
    """See the module."""

    def __init__(self, common: Common, checked: list[Rule], outlet: Outlet, sample: int) -> None:
        super().__init__(common)
        self._rules = checked
        self._outlet = outlet
        self._sample = sample

    @classmethod
    def of(cls, file: Section) -> Validation:
        """Reads the file."""
        settings = common(file, KIND, every_seconds=300.0, concurrency=2)
        findings = file.section("findings")
        outlet = Outlet(
            to=findings.text_or_none("to"),
            topic=findings.text_or_none("topic"),
            type=findings.choice("type", ("data", "alert"), "data"),
            repeat_seconds=findings.seconds("repeat_seconds", 3600.0, 0.0, 7 * 86_400.0),
        )
        if outlet.to and outlet.topic:
            findings.fault("to", "findings go to an agent or to a topic, not to both")
        return cls(settings, rules(file), outlet, findings.whole("sample", 5, 0, SAMPLE_MAX))

    def work(self) -> dict[str, tuple[float, str]]:
        """Measures, writes, sends."""
        found, undecided, rows = self._measure()
        with self.common.mesh.transaction() as connection:
            lasting = self._alerts().write(connection, found, set(undecided))
        self._send(lasting)
        if undecided:
            # Last, so that what was found is told all the same.
            raise Fault("; ".join(f"rule {name!r}: {why}" for name, why in undecided.items()))
        return {
            "rules": (len(self._rules), "rules"),
            "findings": (len(found), "findings"),
            "rows_in_violation": (rows, "rows"),
        }

    def _alerts(self) -> Alerts:
        return Alerts(self.agent.name, ALERT_TYPE, self.common.mesh_schema)

    def _measure(self) -> tuple[list[Finding], dict[str, str], int]:
        found: list[Finding] = []
        undecided: dict[str, str] = {}
        rows = 0
        for rule in self._rules:
            try:
                # Each rule sees its own snapshot: a long one must not hold back the vacuum for all.
                with self.common.database.transaction() as connection:
                    connection.execute("set transaction read only")
                    measured = measure(connection, rule, self._sample)
            except psycopg.Error as fault:
                undecided[rule.name] = sentence_of(fault)
                continue
            if measured.violations > rule.tolerated:
                rows += measured.violations
                found.append(_finding(rule, measured))
        return found, undecided, rows

    def _send(self, lasting: list[Lasting]) -> None:
        if not (self._outlet.to or self._outlet.topic):
            return
        for one_ in lasting:
            if not is_due(one_, self._outlet.repeat_seconds):
                continue
            finding = one_.finding
            self.agent.send(
                to=self._outlet.to,
                topic=self._outlet.topic,
                type=self._outlet.type,
                payload={
                    **finding.details,
                    "alert_id": str(one_.alert_id),
                    "severity": finding.severity,
                    "message": finding.message,
                },
                priority=PRIORITIES[finding.severity],
                # Killed between this and the next line, the next run sends it again, and it is the same message.
                dedupe_key=f"finding:{one_.alert_id}:{one_.sent}",
            )
            with self.common.mesh.transaction() as connection:
                self._alerts().sent(connection, one_.alert_id)


def is_due(lasting: Lasting, repeat_seconds: float) -> bool:
    """Whether a finding is to be sent (again)."""
    if lasting.sent_seconds_ago is None:
        return True
    return repeat_seconds > 0 and lasting.sent_seconds_ago >= repeat_seconds


def measure(connection: Connection, rule: Rule, limit: int) -> Measured:
    """Runs a rule's statements."""
    row = one(connection, *statements.count(rule))
    sample: list[Any] = []
    if row["violations"] and limit and (statement := statements.sample(rule, limit)):
        sample = [line["row"] for line in connection.execute(*statement)]
    return Measured(int(row["violations"]), sample, row.get("age_seconds"))


def _finding(rule: Rule, measured: Measured) -> Finding:
    details: dict[str, Any] = {
        "finding": rule.check,
        "rule": rule.name,
        "table": str(rule.table),
        "columns": list(rule.columns),
        "violations": measured.violations,
        "sample": measured.sample,
    }
    if rule.fix:
        details["fix"] = rule.fix
    return Finding(rule.name, rule.severity, sentence(rule, measured), details)

"""The orchestrator's part of the configuration, checked."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Section
from . import asked
from .assign import Terms


@dataclass(frozen=True)
class Options:
    """The orchestrator's options."""

    terms: Terms
    deadline_seconds: float
    assignments_max: int
    lock_seconds: float
    #: How often one that stands by asks for the lock.
    standby_seconds: float
    keep_days: int
    escalate_to: tuple[str, ...]
    escalate_topic: str | None
    escalate_repeat_seconds: float
    escalate_times_max: int


def options(file: Section) -> Options:
    """Reads [orchestrator] and [escalation]."""
    section, escalation = file.section("orchestrator"), file.section("escalation")
    terms = Terms(
        grace_seconds=section.seconds("grace_seconds", 5.0, 0.0, 3600.0),
        silent_seconds=section.seconds("silent_seconds", 60.0, 1.0, 86_400.0),
        wait_seconds=section.seconds("wait_seconds", 3600.0, 0.1, 7 * 86_400.0),
        tasks_per_agent_max=section.whole("tasks_per_agent_max", 4, 1, 1000),
    )
    return Options(
        terms=terms,
        deadline_seconds=section.seconds("deadline_seconds", 300.0, 0.1, asked.DEADLINE_SECONDS_MAX),
        assignments_max=section.whole("assignments_max", 3, 1, asked.ASSIGNMENTS_MAX),
        lock_seconds=section.seconds("lock_seconds", 10.0, 1.0, 3600.0),
        standby_seconds=section.seconds("standby_seconds", 1.0, 0.05, 60.0),
        keep_days=section.whole("keep_days", 30, 1, 36_500),
        escalate_to=escalation.texts("to"),
        escalate_topic=escalation.text("topic", "alerts.unacknowledged") or None,
        escalate_repeat_seconds=escalation.seconds("repeat_seconds", 300.0, 1.0, 86_400.0),
        escalate_times_max=escalation.whole("times_max", 5, 1, 1000),
    )

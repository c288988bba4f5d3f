"""Reads tasks and their outcomes from messages. No IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..faults import Fault

DEADLINE_SECONDS_MAX = 86_400.0
ASSIGNMENTS_MAX = 100


@dataclass(frozen=True)
class Asked:
    """A task, as somebody wants it."""

    task: Any
    needs: str
    environment: str | None
    deadline_seconds: float
    assignments_max: int


def read(payload: Any, *, deadline_seconds: float, assignments_max: int) -> Asked:
    """Raises `Fault` with what is wrong, for whoever asked; the numbers are what holds where nothing is said."""
    if not isinstance(payload, Mapping):
        raise Fault('a task is an object: {"task": …, "needs": "a capability", "environment": "optional"}')
    needs, environment = payload.get("needs"), payload.get("environment")
    if "task" not in payload or not isinstance(needs, str) or not needs:
        raise Fault('a task has "task", what is to be done, and "needs", the capability that does it')
    if environment is not None and not isinstance(environment, str):
        raise Fault('"environment" is the name of one, or left out')
    deadline = payload.get("deadline_seconds", deadline_seconds)
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not 0 < deadline <= DEADLINE_SECONDS_MAX:
        raise Fault(f'"deadline_seconds" is a number up to {DEADLINE_SECONDS_MAX:g}')
    most = payload.get("assignments_max", assignments_max)
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= ASSIGNMENTS_MAX:
        raise Fault(f'"assignments_max" is a whole number up to {ASSIGNMENTS_MAX}')
    return Asked(payload["task"], needs, environment, float(deadline), most)


@dataclass(frozen=True)
class Outcome:
    """A worker's word on its task: `{"ok": true, "result": …}`, or false with an `error`."""

    is_ok: bool
    result: Any
    error: str | None


def outcome(payload: Any) -> Outcome:
    """An answer that says nothing about how it went went well: whoever fails says so."""
    if isinstance(payload, Mapping) and payload.get("ok") is False:
        return Outcome(False, None, str(payload.get("error") or "it failed, and did not say why")[:1000])
    result = payload["result"] if isinstance(payload, Mapping) and "result" in payload else payload
    return Outcome(True, result, None)


def correlation(task_id: object, assignment: int) -> str:
    """The `correlation_id` that a worker's answer is known by."""
    return f"{task_id}/{assignment}"


def parse_correlation(text: str | None) -> tuple[str, int] | None:
    """The task and its assignment; None where it is somebody else's answer."""
    task_id, _, number = (text or "").partition("/")
    return (task_id, int(number)) if len(task_id) == 36 and number.isdecimal() and len(number) < 6 else None

"""The orchestrator's messages: first sent, then written as sent. If an orchestrator is killed between, the next one sends
the same message again, under the same key."""

from __future__ import annotations

import logging
from typing import Any

from postbell import Invalid, PostbellError, Refused, SyncAgent
from psycopg.rows import DictRow

from ..database import Connection
from . import asked, escalations, store
from .settings import Options

logger = logging.getLogger("postbell_agents.orchestrator")

#: Codes by which the broker refuses the message itself, whoever sends it and whenever.
REFUSALS = ("payload_too_large", "bad_field", "rejected")


def send_tasks(agent: SyncAgent, connection: Connection, schema: str, fence: int) -> None:
    """Commands to those that have a task, answers to those that asked for one."""
    for row in store.unsent(connection):
        if fault := _send_command(agent, row):
            error = asked.Outcome(False, None, f"it cannot be sent: {fault}")
            store.finish(connection, str(row["task_id"]), row["assignment"], error, fence)
        else:
            store.sent(connection, row["task_id"], row["assignment"], fence)
    for row in store.unanswered(connection, schema):
        if fault := _send_answer(agent, row, answer(row)):
            short = {**answer(row), "ok": False, "error": f"the result cannot be sent: {fault}"}
            short.pop("result", None)
            _send_answer(agent, row, short)
        store.answered(connection, row["task_id"], fence)


def _send_command(agent: SyncAgent, row: DictRow) -> str | None:
    return _sent(
        agent,
        to=row["agent_id"],
        type="command",
        payload={"task": row["task"], "task_id": str(row["task_id"]), "assignment": row["assignment"]},
        priority=row["priority"],
        correlation_id=asked.correlation(row["task_id"], row["assignment"]),
        # An agent that comes back later finds nothing that somebody else did meanwhile.
        ttl=row["deadline_seconds"],
        dedupe_key=f"assign:{row['task_id']}:{row['assignment']}",
    )


def _send_answer(agent: SyncAgent, row: DictRow, payload: dict[str, Any]) -> str | None:
    return _sent(
        agent,
        to=row["asked_by"],
        # Where a process waits for it, to that one, beside its window.
        to_instance=row["reply_to"],
        type="response",
        payload=payload,
        priority=1,
        correlation_id=row["correlation_id"],
        dedupe_key=f"answer:{row['task_id']}",
    )


def answer(row: DictRow) -> dict[str, Any]:
    """The answer to the asker of a finished task."""
    is_ok = row["status"] == "done"
    what = {"result": row["result"]} if is_ok else {"error": row["error"]}
    return {
        "ok": is_ok,
        "task_id": str(row["task_id"]),
        **what,
        "agent": row["agent_id"],
        "assignments": row["assignment"],
    }


def send_escalations(agent: SyncAgent, connection: Connection, options: Options) -> None:
    """Sends alerts that nobody acknowledged to the names and the topic in the configuration."""
    for row in escalations.due(connection, options.escalate_repeat_seconds):
        for to in options.escalate_to:
            _tell(agent, row, to=to)
        if options.escalate_topic:
            _tell(agent, row, topic=options.escalate_topic)
        escalations.told(connection, row["alert_id"], options.escalate_times_max)


def _tell(agent: SyncAgent, row: DictRow, *, to: str | None = None, topic: str | None = None) -> None:
    alert = row["alert"] if isinstance(row["alert"], dict) else {"alert": row["alert"]}
    _sent(
        agent,
        to=to,
        topic=topic,
        type="alert",
        payload={**alert, "told": row["told"] + 1},
        priority=1,
        dedupe_key=f"escalation:{row['alert_id']}:{row['told']}:{to or topic}",
    )


def _sent(agent: SyncAgent, **message: Any) -> str | None:
    """None once it is stored; why it never will be. One that is too large must not keep those behind it."""
    try:
        agent.send(**message)
    except PostbellError as fault:
        is_its_own = isinstance(fault, Invalid) or (isinstance(fault, Refused) and fault.code in REFUSALS)
        if not is_its_own:
            raise
        logger.error("a message to %s cannot be sent: %s", message.get("to") or message.get("topic"), fault)
        return str(fault)
    return None

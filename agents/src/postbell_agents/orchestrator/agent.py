"""The job: while the lock is ours, tasks come in, are assigned, watched and answered. Everything is in the tables, so that
the next one to hold the lock goes on where this one stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from postbell import LockLost, PostbellError, SyncAgent, SyncLock, SyncMessage

from .. import runtime
from ..config import Section
from ..database import Connection
from ..faults import Fault
from ..runtime import Job
from ..settings import Common, common
from ..tables import ensure
from . import asked, escalations, health, store
from .assign import Terms, plan

logger = logging.getLogger("postbell_agents.orchestrator")

KIND = "orchestrator"
LOCK = "orchestrator"
#: Old rows are looked for so often.
FORGET_ROUNDS = 3600


@dataclass(frozen=True)
class Options:
    """What the file says of it."""

    terms: Terms
    deadline_seconds: float
    assignments_max: int
    lock_seconds: float
    #: How often one that stands by asks for the lock.
    standby_seconds: float
    #: The inbox that all orchestrators share; None: they all have one name, and so one inbox.
    group: str | None
    keep_days: int
    escalate_to: tuple[str, ...]
    escalate_topic: str | None
    escalate_repeat_seconds: float
    escalate_times_max: int


class Orchestrator(Job):
    """See the module."""

    def __init__(self, common: Common, options: Options) -> None:
        super().__init__(common)
        self._options = options
        self._lock: SyncLock | None = None
        self._rounds = 0

    @classmethod
    def of(cls, file: Section) -> Orchestrator:
        """Reads the file."""
        settings = common(file, KIND, every_seconds=1.0, concurrency=8)
        section, escalation = file.section("orchestrator"), file.section("escalation")
        terms = Terms(
            grace_seconds=section.seconds("grace_seconds", 5.0, 0.0, 3600.0),
            silent_seconds=section.seconds("silent_seconds", 60.0, 1.0, 86_400.0),
            wait_seconds=section.seconds("wait_seconds", 3600.0, 0.1, 7 * 86_400.0),
        )
        options = Options(
            terms=terms,
            deadline_seconds=section.seconds("deadline_seconds", 300.0, 0.1, asked.DEADLINE_SECONDS_MAX),
            assignments_max=section.whole("assignments_max", 3, 1, asked.ASSIGNMENTS_MAX),
            lock_seconds=section.seconds("lock_seconds", 10.0, 1.0, 3600.0),
            standby_seconds=section.seconds("standby_seconds", 1.0, 0.05, 60.0),
            group=section.text_or_none("group"),
            keep_days=section.whole("keep_days", 30, 1, 36_500),
            escalate_to=escalation.texts("to"),
            escalate_topic=escalation.text("topic", "alerts.unacknowledged") or None,
            escalate_repeat_seconds=escalation.seconds("repeat_seconds", 300.0, 1.0, 86_400.0),
            escalate_times_max=escalation.whole("times_max", 5, 1, 1000),
        )
        return cls(settings, options)

    def attach(self, agent: SyncAgent) -> None:
        """See `Job.attach`."""
        with self.common.mesh.connection() as connection:
            ensure(connection, "orchestrator_tasks")
            ensure(connection, "orchestrator_escalations")
        super().attach(agent)
        agent.on("response")(self.counted(self.on_response))
        agent.on("alert")(self.counted(self.on_alert))
        agent.subscribe("alerts.escalated")
        if self._options.group:
            agent.subscribe(group=self._options.group)

    def live(self, leave: Callable[[], bool], *, once: bool) -> bool:
        """Leads while the lock is ours; until then, and after it was lost, stands by."""
        while not leave():
            lock = self._ask()
            if lock is None or not lock.held:
                if once:
                    logger.info("another orchestrator is active; nothing to do")
                    return lock is not None
                runtime.wait(leave, self._options.standby_seconds)
                continue
            worked = self._lead(lock, leave, once=once)
            if once:
                return worked
        return True

    def _ask(self) -> SyncLock | None:
        try:
            return self.agent.lock(LOCK, self._options.lock_seconds)
        except PostbellError as fault:
            if not fault.is_retryable:
                raise
            logger.warning("the lock cannot be asked for: %s", fault)
            return None

    def _lead(self, lock: SyncLock, leave: Callable[[], bool], *, once: bool) -> bool:
        assert lock.fence is not None
        logger.info("active, with the fence %d", lock.fence)
        self._lock = lock
        with self.common.mesh.transaction() as connection:
            store.take_over(connection, lock.fence)
        try:
            return super().live(lambda: leave() or not lock.held, once=once)
        finally:
            self._lock = None
            try:
                lock.release()
            except LockLost:
                logger.warning("the lock was lost: another orchestrator is active")
            except PostbellError as fault:
                logger.warning("the lock was not given back and ends by its time: %s", fault)

    @property
    def _fence(self) -> int:
        """Of the lock that is ours. What is handled at the very moment it is lost is left to the next one."""
        lock = self._lock
        fence = lock.fence if lock is not None and lock.held else None
        if fence is None:
            raise Fault("this orchestrator is not active any more")
        return fence

    def on_command(self, message: SyncMessage) -> None:
        """A task."""
        options = self._options
        try:
            what = asked.read(
                message.payload, deadline_seconds=options.deadline_seconds, assignments_max=options.assignments_max
            )
        except Fault as fault:
            self.answer(message, {"ok": False, "error": str(fault)})
            return
        with self.common.mesh.transaction() as connection:
            correlation_id = message.correlation_id or message.id
            store.insert(connection, message.id, message.sender, correlation_id, what, message.priority, self._fence)
        self.wake.set()

    def on_response(self, message: SyncMessage) -> None:
        """A worker's answer."""
        key = asked.parse_correlation(message.correlation_id)
        if key is None:
            logger.info("an answer to nothing that was asked from here: %r", message)
            return
        with self.common.mesh.transaction() as connection:
            store.finish(connection, *key, asked.outcome(message.payload), self._fence)
        self.wake.set()

    def on_alert(self, message: SyncMessage) -> None:
        """One that nobody acknowledged."""
        payload = message.payload
        named = payload.get("alert_id") if isinstance(payload, dict) else None
        try:
            alert_id = UUID(str(named))
        except ValueError:
            alert_id = UUID(message.id)
        with self.common.mesh.transaction() as connection:
            escalations.insert(connection, alert_id, payload)
        self.wake.set()

    def health(self) -> dict[str, Any]:
        """See `Job.health`: of the mesh, beside its own."""
        with self.common.mesh.transaction() as connection:
            mesh = health.read(connection, self.common.mesh_schema)
        return {**super().health(), "fence": self._fence, **mesh}

    def work(self) -> dict[str, tuple[float, str]]:
        """A round: what is to be done is written, then sent, then written as sent."""
        fence = self._fence
        with self.common.mesh.transaction() as connection:
            tasks = store.open_tasks(connection)
            steps = plan(tasks, store.workers(connection, self.common.mesh_schema), self._options.terms) if tasks else []
            for step in steps:
                logger.info("%s", step)
                store.carry_out(connection, step, fence)
            escalations.end_acknowledged(connection, self.common.mesh_schema)
            if self._rounds % FORGET_ROUNDS == 0:
                store.forget(connection, self._options.keep_days)
        self._rounds += 1
        with self.common.mesh.connection() as connection:
            self._send(connection, fence)
            self._escalate(connection)
        return {"tasks_open": (len(tasks), "tasks"), "tasks_waiting": (sum(not t.is_assigned for t in tasks), "tasks")}

    def _send(self, connection: Connection, fence: int) -> None:
        # Killed between a send and its mark, the next one sends it again: one message by its key, if its name is the same.
        for row in store.unsent(connection):
            self.agent.send(
                to=row["agent_id"],
                type="command",
                payload={"task": row["task"], "task_id": str(row["task_id"]), "assignment": row["assignment"]},
                priority=row["priority"],
                correlation_id=asked.correlation(row["task_id"], row["assignment"]),
                # An agent that comes back later finds nothing that somebody else did meanwhile.
                ttl=row["deadline_seconds"],
                dedupe_key=f"assign:{row['task_id']}:{row['assignment']}",
            )
            store.sent(connection, row["task_id"], row["assignment"], fence)
        for row in store.unanswered(connection):
            self.agent.send(
                to=row["asked_by"],
                type="response",
                payload=_answer(row),
                priority=1,
                correlation_id=row["correlation_id"],
                dedupe_key=f"answer:{row['task_id']}",
            )
            store.answered(connection, row["task_id"], fence)

    def _escalate(self, connection: Connection) -> None:
        options = self._options
        for row in escalations.due(connection, options.escalate_repeat_seconds):
            for address in ({"to": to} for to in options.escalate_to):
                self._tell(row, **address)
            if options.escalate_topic:
                self._tell(row, topic=options.escalate_topic)
            escalations.told(connection, row["alert_id"], options.escalate_times_max)

    def _tell(self, row: dict[str, Any], *, to: str | None = None, topic: str | None = None) -> None:
        alert = row["alert"] if isinstance(row["alert"], dict) else {"alert": row["alert"]}
        self.agent.send(
            to=to,
            topic=topic,
            type="alert",
            payload={**alert, "told": row["told"] + 1},
            priority=1,
            dedupe_key=f"escalation:{row['alert_id']}:{row['told']}:{to or topic}",
        )


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    is_ok = row["status"] == "done"
    what = {"result": row["result"]} if is_ok else {"error": row["error"]}
    return {
        "ok": is_ok,
        "task_id": str(row["task_id"]),
        **what,
        "agent": row["agent_id"],
        "assignments": row["assignment"],
    }

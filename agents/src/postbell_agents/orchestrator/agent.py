"""The job: while the lock is ours, tasks come in, are assigned, watched and answered. Everything is in the tables, so that
the next one to hold the lock goes on where this one stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from postbell import LockLost, PostbellError, Release, SyncAgent, SyncLock, SyncMessage

from .. import runtime
from ..config import Section
from ..faults import Fault
from ..job import Job
from ..settings import Common, common
from ..tables import ensure
from . import asked, escalations, health, outbox, store
from .assign import plan
from .settings import Options, options

logger = logging.getLogger("postbell_agents.orchestrator")

KIND = "orchestrator"
LOCK = "orchestrator"
#: Old rows are looked for so often.
FORGET_ROUNDS = 3600


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
        return cls(settings, options(file))

    def attach(self, agent: SyncAgent) -> None:
        """See `Job.attach`."""
        with self.common.mesh.connection() as connection:
            ensure(connection, "orchestrator_tasks")
            ensure(connection, "orchestrator_escalations")
        super().attach(agent)
        agent.on("response")(self.on_response)
        agent.on("alert")(self.on_alert)
        agent.subscribe("alerts.escalated")

    def live(self, work: Callable[[Callable[[], bool]], bool], leave: Callable[[], bool]) -> bool:
        """Leads while the lock is ours; until then, and after it was lost, stands by."""
        while not leave():
            lock = self._ask()
            if lock is not None and lock.held:
                worked = self._lead(lock, work, leave)
                if self.is_once:
                    return worked
            elif self.is_once:
                logger.info("another orchestrator is active; nothing to do")
                return lock is not None
            else:
                runtime.wait(leave, self._options.standby_seconds)
        return True

    def _ask(self) -> SyncLock | None:
        try:
            return self.agent.lock(LOCK, self._options.lock_seconds)
        except PostbellError as fault:
            if not fault.is_retryable:
                raise
            logger.warning("the lock cannot be asked for: %s", fault)
            return None

    def _lead(self, lock: SyncLock, work: Callable[[Callable[[], bool]], bool], leave: Callable[[], bool]) -> bool:
        assert lock.fence is not None
        logger.info("active, with the fence %d", lock.fence)
        self._lock = lock
        with self.common.mesh.transaction() as connection:
            store.take_over(connection, lock.fence)
        try:
            return work(lambda: leave() or not lock.held)
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
        """The fence of the lock that is ours."""
        lock = self._lock
        fence = lock.fence if lock is not None and lock.held else None
        if fence is None:
            # Without the lock, the message in hand is left to the next orchestrator, uncounted.
            raise Release
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
        try:
            fence = self._fence
        except Release:
            raise Fault("the lock was lost meanwhile") from None
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
            outbox.send_tasks(self.agent, connection, self.common.mesh_schema, fence)
            outbox.send_escalations(self.agent, connection, self._options)
        return {"tasks_open": (len(tasks), "tasks"), "tasks_waiting": (sum(not t.is_assigned for t in tasks), "tasks")}

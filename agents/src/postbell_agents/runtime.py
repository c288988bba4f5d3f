"""How an agent lives: connected, answering messages, doing its job every so often; or once, for a scheduled job."""

from __future__ import annotations

import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from postbell import PostbellError, SyncAgent, SyncMessage
from psycopg import sql
from psycopg.types.json import Jsonb

from . import metrics
from .faults import Fault
from .settings import Common

logger = logging.getLogger("postbell_agents")

#: A job that is under way when the agent is told to leave is waited for so long.
LEAVE_WAIT_SECONDS = 30.0
#: How soon a signal is heard.
LOOK_SECONDS = 0.1
#: Answers are of no use to anybody later.
ANSWER_TTL_SECONDS = 3600.0


class Job(ABC):
    """What one of the agents does."""

    def __init__(self, common: Common) -> None:
        self.common = common
        self.agent: SyncAgent
        #: Handlers that raised, which the broker will try again.
        self.failures = 0
        self.is_once = False
        #: Set: there is work before the next round would come.
        self.wake = threading.Event()
        self._busy = threading.Lock()
        self._last_fault: str | None = None
        self._worked_at: float | None = None
        self._metrics_at: float | None = None

    def attach(self, agent: SyncAgent) -> None:
        """Connected: handlers, subscriptions, tables. Raises `Fault` where the agent cannot do its job here."""
        self.agent = agent
        self._announce()
        agent.on("command")(self.counted(self.on_command))
        agent.on("query")(self.counted(self.on_query))

    def _announce(self) -> None:
        """What the orchestrator assigns tasks by."""
        with self.common.mesh.transaction() as connection:
            connection.execute(
                sql.SQL("update {} set capabilities = %s where agent_id = %s").format(
                    sql.Identifier(self.common.mesh_schema, "agent_registry")
                ),
                [Jsonb(list(self.common.capabilities)), self.agent.name],
            )

    @abstractmethod
    def work(self) -> dict[str, tuple[float, str]]:
        """The job, once; gives its metrics, name to value and unit. Raises where it could not be done."""

    def on_command(self, message: SyncMessage) -> None:
        """Somebody wants it done now: the orchestrator, or a person."""
        try:
            result: dict[str, Any] = {"ok": True, "result": {name: value for name, (value, _) in self.tick().items()}}
        except Fault as fault:
            result = {"ok": False, "error": str(fault)}
        self.answer(message, result)

    def on_query(self, message: SyncMessage) -> None:
        """How are you?"""
        ask = message.payload.get("ask") if isinstance(message.payload, dict) else None
        if ask == "health":
            self.answer(message, self.health())
        else:
            self.answer(message, {"ok": False, "error": f'{{"ask": "health"}} is what is answered here, not {ask!r}'})

    def health(self) -> dict[str, Any]:
        """What there is to say about this agent."""
        ago = None if self._worked_at is None else round(time.monotonic() - self._worked_at, 1)
        return {
            "ok": self._last_fault is None,
            "agent": self.agent.name,
            "kind": self.common.kind,
            "environment": self.agent.environment,
            "worked_seconds_ago": ago,
            "fault": self._last_fault,
        }

    def answer(self, message: SyncMessage, payload: dict[str, Any]) -> None:
        """To whoever sent it. The same answer to the same message is one message."""
        if "reply_to" in message.headers:
            # A process of the asker's waits for it.
            message.reply(payload, ttl=ANSWER_TTL_SECONDS)
            return
        self.agent.send(
            to=message.sender,
            type="response",
            payload=payload,
            correlation_id=message.correlation_id or message.id,
            ttl=ANSWER_TTL_SECONDS,
            dedupe_key=f"answer:{message.id}",
        )

    def tick(self) -> dict[str, tuple[float, str]]:
        """Works, one at a time, and writes metrics. What it raises is remembered for whoever asks."""
        with self._busy:
            began = time.monotonic()
            try:
                values = self.work()
            except Exception as fault:
                if self._last_fault is None:
                    # Bad news is not held back.
                    self._metrics_at = None
                self._last_fault = str(fault)
                self._write_metrics({"run_failed": (1, "boolean")})
                raise
            self._last_fault, self._worked_at = None, time.monotonic()
            values = {**values, "run_failed": (0, "boolean"), "run_seconds": (round(self._worked_at - began, 3), "seconds")}
            self._write_metrics(values)
            return values

    def _write_metrics(self, values: dict[str, tuple[float, str]]) -> None:
        # An agent that works every second does not write rows every second.
        now = time.monotonic()
        if self._metrics_at is not None and now - self._metrics_at < self.common.metrics_seconds:
            return
        self._metrics_at = now
        try:
            with self.common.mesh.transaction() as connection:
                metrics.write(connection, self.common.mesh_schema, self.agent.name, values)
        except Exception as fault:
            # The job was done: what is said about it is not worth failing it.
            logger.warning("metrics could not be written: %s", fault)

    def counted(self, handler: Callable[[SyncMessage], None]) -> Callable[[SyncMessage], None]:
        """The handler; a scheduled job that fails in it says so by its exit status."""

        def handle(message: SyncMessage) -> None:
            try:
                handler(message)
            except Exception:
                self.failures += 1
                raise

        return handle

    def live(self, leave: Callable[[], bool], *, once: bool) -> bool:
        """Attached: until it is time to leave, or once. True if it did what it was started for."""
        return run_once(self, leave) if once else run_on(self, leave)

    def leaving(self) -> None:  # noqa: B027 - most have nothing to do
        """It is time to leave: what holds messages back finishes. Called again until they are handled."""

    def close(self) -> None:
        """The end."""
        self.common.database.close()
        self.common.mesh.close()


def connect(common: Common) -> SyncAgent:
    """The agent, not open yet."""
    return SyncAgent(common.name, environment=common.environment, instance=common.instance)


def run(job: Job, *, once: bool) -> bool:
    """Runs the agent; true if it did what it was started for."""
    job.is_once = once
    with connect(job.common) as agent, told_to_leave() as leave:
        try:
            job.attach(agent)
            return job.live(leave.is_set, once=once)
        finally:
            job.close()


def run_once(job: Job, leave: Callable[[], bool]) -> bool:
    """Handles what waits, does the job, handles what came meanwhile; again where that makes new work."""
    common = job.common

    def drain() -> None:
        handle(job, leave, lambda: job.agent.drain(common.idle_seconds, common.concurrency))

    drain()
    if leave():
        return False
    while True:
        job.wake.clear()
        try:
            job.tick()
        except Exception as fault:
            report(fault)
            job.failures += 1
        drain()
        if leave() or not job.wake.is_set():
            break
    return job.failures == 0 and not leave()


def run_on(job: Job, leave: Callable[[], bool]) -> bool:
    """Until it is time to leave."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            try:
                job.tick()
            except Exception as fault:
                report(fault)
            job.wake.wait(job.common.every_seconds)
            job.wake.clear()

    worker = threading.Thread(target=work, name="work", daemon=True)
    worker.start()
    try:
        handle(job, leave, lambda: job.agent.run(job.common.concurrency))
    finally:
        is_over.set()
        job.wake.set()
        worker.join(LEAVE_WAIT_SECONDS)
    return True


def handle(job: Job, leave: Callable[[], bool], handling: Callable[[], object]) -> None:
    """Handles messages until that ends by itself, or until it is time to leave; raises what it raises."""
    faults: list[BaseException] = []
    is_over = threading.Event()

    def work() -> None:
        try:
            handling()
        except BaseException as fault:
            faults.append(fault)
        finally:
            is_over.set()

    # Not in the main thread: the library would take the signals there, and the job must hear of them as well.
    thread = threading.Thread(target=work, name="messages", daemon=True)
    thread.start()
    while not is_over.wait(LOOK_SECONDS):
        if leave():
            job.leaving()
            # Again and again: it may not have begun yet.
            job.agent.stop()
    thread.join()
    if faults:
        raise faults[0]


def wait(leave: Callable[[], bool], seconds: float) -> None:
    """So long, or until it is time to leave."""
    until = time.monotonic() + seconds
    while not leave() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_SECONDS))


@contextmanager
def told_to_leave() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT; a second one does what it does by default."""
    leave = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield leave
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def told(_number: int, _frame: FrameType | None) -> None:
        restore()
        leave.set()

    for number in before:
        signal.signal(number, told)
    try:
        yield leave
    finally:
        restore()


def report(fault: BaseException) -> None:
    """A sentence where it is meant for people; where it is a defect of ours, all there is to know."""
    is_known = isinstance(fault, (Fault, PostbellError))
    logger.error("the job failed: %s", fault, exc_info=None if is_known else fault)

"""The job of an agent, and what the agent says of itself."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from postbell import Summary, SyncAgent, SyncMessage

from . import metrics
from .faults import Fault, sentence
from .settings import Common

logger = logging.getLogger("postbell_agents")

#: Answers are of no use to anybody later.
ANSWER_TTL_SECONDS = 3600.0
#: Old metrics are looked for so often.
FORGET_SECONDS = 86_400.0


class Job(ABC):
    """The job of one of the agents."""

    def __init__(self, common: Common) -> None:
        self.common = common
        self.agent: SyncAgent
        #: Rounds of the job that failed, and what of it was given back.
        self.failures = 0
        #: The counts of what became of messages.
        self.messages: Summary | None = None
        self.is_once = False
        #: Set: there is work before the next round would come.
        self.wake = threading.Event()
        self._busy = threading.Lock()
        self._last_fault: str | None = None
        self._worked_at: float | None = None
        self._metrics_at: float | None = None
        self._forgot_at: float | None = None

    def attach(self, agent: SyncAgent) -> None:
        """Connected: handlers, subscriptions, tables. Raises `Fault` where the agent cannot do its job here."""
        self.agent = agent
        agent.on("command")(self.on_command)
        agent.on("query")(self.on_query)

    @abstractmethod
    def work(self) -> dict[str, tuple[float, str]]:
        """The job, once; gives its metrics, name to value and unit. Raises where it could not be done."""

    def on_command(self, message: SyncMessage) -> None:
        """Somebody wants it done now: the orchestrator, or a person."""
        try:
            result: dict[str, Any] = {"ok": True, "result": {name: value for name, (value, _) in self.tick().items()}}
        except Fault as fault:
            # The asker is told, and a scheduled job that could not be done is not green.
            self.failures += 1
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
        """The answer to a question about this agent's health."""
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
        """Works, one at a time, and writes metrics. A fault is remembered, for `health`."""
        with self._busy:
            began = time.monotonic()
            try:
                values = self.work()
            except Exception as fault:
                if self._last_fault is None:
                    # Bad news is not held back.
                    self._metrics_at = None
                self._last_fault = sentence(fault)
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
                if self._forgot_at is None or now - self._forgot_at > FORGET_SECONDS:
                    metrics.forget(connection, self.common.mesh_schema, self.agent.name, self.common.metrics_days)
                    self._forgot_at = now
        except Exception as fault:
            # The job was done: what is said about it is not worth failing it.
            logger.warning("metrics could not be written: %s", fault)

    def count(self, summary: Summary) -> None:
        """Messages that `--once` took."""
        self.messages = self.messages.plus(summary) if self.messages is not None else summary

    def live(self, work: Callable[[Callable[[], bool]], bool], leave: Callable[[], bool]) -> bool:
        """Attached: lives by `work` until it is time to leave; true if it did what it was started for."""
        return work(leave)

    def leaving(self) -> None:  # noqa: B027 - most have nothing to do
        """Finishes what holds messages back, when it is time to leave. Called again until they are handled."""

    def close(self) -> None:
        """The end."""
        self.common.database.close()
        self.common.mesh.close()

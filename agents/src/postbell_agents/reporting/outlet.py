"""A sink with its digest, its rate and its patience, in a thread of its own: a slow one does not delay the others."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

from .alert import Alert
from .digest import Digest, Rate, backoff
from .sinks import Report, Sink, SinkFault, report

logger = logging.getLogger("postbell_agents.reporting")

#: Alerts that this sink has taken, while another, which is required too, has not: they come again, and are not told twice.
TAKEN_MAX = 10_000
#: A sink that asks for more is asked again earlier: the alerts are held meanwhile.
RETRY_AFTER_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Terms:
    """How a sink wants it."""

    name: str
    is_required: bool
    #: The least severity, as a rank, that it is told.
    rank_min: int
    takes_summary: bool
    digest_seconds: float
    digest_max: int
    #: The least severity, as a rank, that no digest waits for.
    urgent_rank: int
    rate_count: int
    rate_seconds: float
    #: Tries in a row, before the alert goes back to the broker.
    tries: int
    retry_base_seconds: float


class Outlet:
    """See the module."""

    def __init__(self, terms: Terms, sink: Sink) -> None:
        self.terms = terms
        self.failures = 0
        self.delivered = 0
        self._sink = sink
        self._rate = Rate(terms.rate_count, terms.rate_seconds)
        self._digest: Digest[Alert] = Digest(terms.digest_seconds, terms.digest_max, lambda a: a.rank >= terms.urgent_rank)
        self._waiting: dict[str, Future[None]] = {}
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{terms.name}", daemon=True)
        self._thread.start()

    def wants(self, alert: Alert) -> bool:
        """Whether it is told of such."""
        return alert.rank >= self.terms.rank_min

    def offer(self, alert: Alert) -> Future[None]:
        """Done once the sink has it; fails with `SinkFault`. As many wait here as the agent has in hand."""
        with self._changed:
            if alert.message_id in self._taken:
                done: Future[None] = Future()
                done.set_result(None)
                return done
            if self._is_closing:
                late: Future[None] = Future()
                late.set_exception(SinkFault("the agent is leaving"))
                return late
            if alert.message_id not in self._waiting:
                self._waiting[alert.message_id] = Future()
                self._digest.add(alert, time.monotonic())
                self._changed.notify_all()
            return self._waiting[alert.message_id]

    def deliver(self, what: Report) -> None:
        """At once, within the rate, with the same patience; raises `SinkFault`."""
        for attempt in range(1, self.terms.tries + 1):
            self._wait_for_turn()
            try:
                self._sink.deliver(what)
            except SinkFault as fault:
                self.failures += 1
                logger.warning("sink %s, try %d of %d: %s", self.terms.name, attempt, self.terms.tries, fault)
                if fault.is_refusal or attempt == self.terms.tries or self._is_closing:
                    raise
                wait = backoff(attempt, self.terms.retry_base_seconds)
                self._pause(wait if fault.retry_seconds is None else min(fault.retry_seconds, RETRY_AFTER_SECONDS_MAX))
            else:
                self.delivered += 1
                return

    def begin_closing(self) -> None:
        """Tries waiting alerts once more, before their digest is due; alerts that no sink takes go back to the broker."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """Waits for that."""
        self.begin_closing()
        self._thread.join()

    def _wait_for_turn(self) -> None:
        # The summary comes from another thread than the alerts; both count.
        with self._changed:
            while not self._is_closing and (wait := self._rate.wait(time.monotonic())):
                self._changed.wait(wait)
            self._rate.take(time.monotonic())

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, seconds)

    def _run(self) -> None:
        while alerts := self._next():
            self._tell(alerts)

    def _next(self) -> list[Alert]:
        """Waits for the alerts that are due, and takes them; none only at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                due_at = now if self._is_closing and len(self._digest) else self._digest.due_at
                wait = self._rate.wait(now) if not self._is_closing else 0.0
                if due_at is not None and due_at <= now and not wait:
                    # While it waited for its turn, more came: they go together.
                    return self._digest.take(max(now, self._digest.due_at or now))
                if self._is_closing:
                    return []
                self._changed.wait(None if due_at is None else max(due_at - now, wait, 0.001))

    def _tell(self, alerts: list[Alert]) -> None:
        try:
            self.deliver(report(alerts))
        except SinkFault as fault:
            if fault.is_refusal and len(alerts) > 1:
                # One of them it will not take: which, is found one by one.
                for alert in alerts:
                    self._tell([alert])
                return
            self._settle(alerts, fault)
        except BaseException as fault:
            # Whatever it is: without this thread the sink would be told of nothing more, and alerts would wait for ever.
            logger.exception("sink %s", self.terms.name)
            self._settle(alerts, SinkFault(f"a defect: {type(fault).__name__}: {fault}"))
        else:
            self._settle(alerts, None)

    def _settle(self, alerts: list[Alert], fault: SinkFault | None) -> None:
        with self._changed:
            futures = [self._waiting.pop(alert.message_id) for alert in alerts]
            if fault is None:
                self._taken.update((alert.message_id, None) for alert in alerts)
            while len(self._taken) > TAKEN_MAX:
                self._taken.popitem(last=False)
        for future in futures:
            # The caller that waited may have gone.
            with suppress(InvalidStateError):
                if fault is None:
                    future.set_result(None)
                else:
                    future.set_exception(fault)

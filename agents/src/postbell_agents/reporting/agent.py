"""The job: an alert is acknowledged once every sink that is required has it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, time, tzinfo

from postbell import Dead, Message, Release, SyncAgent

from ..config import Section
from ..faults import Fault
from ..job import Job
from ..settings import Common, common
from ..tables import ensure
from . import alert as alerts
from . import summary
from .outlet import Outlet, Terms
from .settings import daily, sinks
from .sinks import Sink, SinkFault

logger = logging.getLogger("postbell_agents.reporting")

KIND = "reporting"
#: An alert that a required sink did not take is asked for again after so long, for as long as it takes.
HOLD_SECONDS = 30.0
#: Alerts in hand at once; more wait with the broker.
CONCURRENCY = 200


class Reporting(Job):
    """See the module."""

    def __init__(
        self,
        common: Common,
        sinks: list[tuple[Terms, Sink]],
        topics: tuple[str, ...],
        daily: tuple[time | None, tzinfo],
        hold_seconds: float,
    ) -> None:
        super().__init__(common)
        self._sinks = sinks
        self._topics = topics
        self._at, self._zone = daily
        self._hold_seconds = hold_seconds
        self._outlets: list[Outlet] = []

    @classmethod
    def of(cls, file: Section) -> Reporting:
        """Reads the file."""
        settings = common(file, KIND, every_seconds=30.0, concurrency=CONCURRENCY)
        section = file.section("reporting")
        topics = section.texts("topics", ("alerts.>",))
        hold = section.seconds("hold_seconds", HOLD_SECONDS, 0.1, 3600.0)
        return cls(settings, sinks(file), topics, daily(file.section("summary")), hold)

    def attach(self, agent: SyncAgent) -> None:
        """See `Job.attach`."""
        if self._at is not None:
            with self.common.mesh.connection() as connection:
                ensure(connection, "reporting_summaries")
        super().attach(agent)
        for topic in self._topics:
            agent.subscribe(topic)
        # A job that leaves when nothing comes must not hold alerts for longer than it waits for them.
        seconds_max = self.common.idle_seconds / 2 if self.is_once else float("inf")
        self._outlets = [
            Outlet(replace(terms, digest_seconds=min(terms.digest_seconds, seconds_max)), sink) for terms, sink in self._sinks
        ]
        agent.on("alert", "data")(self.on_alert)

    async def on_alert(self, message: Message) -> None:
        """Told to every sink at once; held until those that are required have it."""
        alert = alerts.read(
            message.id, message.sender, message.topic, message.created_at.isoformat(timespec="seconds"), message.payload
        )
        required = []
        for outlet in self._outlets:
            if outlet.wants(alert):
                # Shielded: what is being told is told, also when the agent leaves.
                telling = asyncio.shield(asyncio.wrap_future(outlet.offer(alert)))
                if outlet.terms.is_required:
                    required.append(telling)
                else:
                    telling.add_done_callback(_log_loss)
        results = await asyncio.gather(*required, return_exceptions=True)
        faults = [result for result in results if isinstance(result, BaseException)]
        for fault in faults:
            if not isinstance(fault, SinkFault):
                raise fault
        if not faults:
            return
        self.failures += 1
        if all(isinstance(fault, SinkFault) and fault.is_refusal for fault in faults):
            raise Dead(str(faults[0]))
        # The sink's fault and not the alert's: it does not count as an attempt.
        raise Release(self._hold_seconds)

    def work(self) -> dict[str, tuple[float, str]]:
        """The summary, where it is due."""
        self._summarise()
        return {
            "reports_delivered": (sum(o.delivered for o in self._outlets), "reports"),
            "sink_failures": (sum(o.failures for o in self._outlets), "failures"),
        }

    def _summarise(self) -> None:
        day = summary.due_day(datetime.now(self._zone), self._at) if self._at is not None else None
        if day is None:
            return
        with self.common.mesh.transaction() as connection:
            if not summary.claim(connection, self.agent.name, day):
                return
            told = summary.report(day, summary.read(connection, self.common.mesh_schema))
            for outlet in self._outlets:
                if outlet.terms.takes_summary:
                    try:
                        outlet.deliver(told)
                    except SinkFault as fault:
                        if outlet.terms.is_required:
                            # Not committed: the next run tries again.
                            raise Fault(f"the summary did not reach {outlet.terms.name}: {fault}") from fault
                        logger.error("the summary did not reach %s: %s", outlet.terms.name, fault)

    def leaving(self) -> None:
        """See `Job.leaving`."""
        for outlet in self._outlets:
            outlet.begin_closing()

    def close(self) -> None:
        """See `Job.close`."""
        for outlet in self._outlets:
            outlet.close()
        super().close()


def _log_loss(told: asyncio.Future[None]) -> None:
    if not told.cancelled() and (fault := told.exception()):
        logger.error("an alert was not told by a sink that is not required: %s", fault)

"""The job: every source that is due, one after the other; one that fails is an alert until it works again."""

from __future__ import annotations

import logging
import threading
import time

import psycopg
from postbell import SyncAgent, SyncMessage

from ..alerts import Alerts, Finding
from ..config import Section
from ..faults import Fault, sentence
from ..job import Job
from ..settings import Common, common
from ..tables import ensure
from . import store
from .run import Run, Tally
from .sources import Source, sources
from .state import Pace, State

logger = logging.getLogger("postbell_agents.collecting")

KIND = "collecting"
ALERT_TYPE = "source_failed"


class Leaving(Exception):
    """Not the source's fault; the next run goes on from here."""


class Collecting(Job):
    """See the module."""

    def __init__(self, common: Common, sources: list[Source]) -> None:
        super().__init__(common)
        self._sources = sources
        self._pace = Pace()
        self._leave = threading.Event()
        self._is_asked = False

    @classmethod
    def of(cls, file: Section) -> Collecting:
        """Reads the file."""
        return cls(common(file, KIND, every_seconds=10.0, concurrency=2), sources(file))

    def attach(self, agent: SyncAgent) -> None:
        """See `Job.attach`."""
        with self.common.database.connection() as connection:
            ensure(connection, "collecting_state")
        super().attach(agent)

    def on_command(self, message: SyncMessage) -> None:
        """Somebody wants it now, whenever it was done last."""
        self._is_asked = True
        super().on_command(message)

    def work(self) -> dict[str, tuple[float, str]]:
        """Every source that is due; with `--once`, or asked for, each."""
        is_asked, self._is_asked = self._is_asked or self.is_once, False
        total, faults = Tally(), {}
        undecided = set()
        for source in self._sources:
            if self._leave.is_set() or (not is_asked and self._pace.is_resting(source.name, time.monotonic())):
                undecided.add(source.name)
                continue
            try:
                tally = self._collect(source, is_asked)
            except Leaving:
                undecided.add(source.name)
                continue
            except Fault as fault:
                self._pace.failed(source.name, time.monotonic())
                faults[source.name] = Finding(
                    source.name, source.severity, f"{source.name}: {fault}", {"source": source.name}
                )
                continue
            except Exception as fault:
                # A defect that one source shows is not the others' business.
                logger.exception("%s", source.name)
                self._pace.failed(source.name, time.monotonic())
                text = f"{source.name}: a defect: {type(fault).__name__}"
                faults[source.name] = Finding(source.name, source.severity, text, {"source": source.name})
                continue
            if tally is None:
                undecided.add(source.name)
                continue
            self._pace.worked(source.name)
            total = Tally(total.records + tally.records, total.written + tally.written, total.requests + tally.requests)
        with self.common.mesh.transaction() as connection:
            Alerts(self.agent.name, ALERT_TYPE, self.common.mesh_schema).write(connection, list(faults.values()), undecided)
        if faults:
            raise Fault("; ".join(finding.message for finding in faults.values()))
        return {
            "records_read": (total.records, "records"),
            "rows_written": (total.written, "rows"),
            "requests": (total.requests, "requests"),
        }

    def _collect(self, source: Source, is_asked: bool) -> Tally | None:
        """None where it is not its turn."""
        # A connection of its own: the lock is the connection's, and ends with it.
        connection = self.common.database.connect()
        try:
            if not store.lock(connection, source):
                logger.info("%s: another agent is at it", source.name)
                return None
            state, finished_seconds_ago = store.load(connection, source)
            if not is_due(source, state, finished_seconds_ago, is_asked, time.time()):
                return None
            run = Run(connection, source, self._pace, self._pause)
            run.go(state)
            logger.info("%s: %d records, %d rows new or changed", source.name, run.tally.records, run.tally.written)
            return run.tally
        except psycopg.Error as fault:
            raise Fault(sentence(fault)) from fault
        finally:
            connection.close()

    def _pause(self, seconds: float) -> None:
        if self._leave.wait(seconds):
            raise Leaving

    def leaving(self) -> None:
        """See `Job.leaving`."""
        self._leave.set()


def is_due(source: Source, state: State, finished_seconds_ago: float | None, is_asked: bool, now: float) -> bool:
    """Whether it is a source's turn. A wait that the source asked for holds even if somebody wants the source read now."""
    if state.not_before is not None and now < state.not_before:
        return False
    is_under_way = state.page is not None
    return is_asked or is_under_way or finished_seconds_ago is None or finished_seconds_ago >= source.every_seconds

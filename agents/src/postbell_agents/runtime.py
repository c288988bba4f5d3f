"""How an agent lives: connected, answering messages, doing its job every so often; or once, for a scheduled job."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psycopg
from postbell import PostbellError, SyncAgent

from . import __version__
from .faults import Fault, sentence
from .job import Job
from .settings import Common

logger = logging.getLogger("postbell_agents")

#: A job that is under way when the agent is told to leave is waited for so long.
LEAVE_WAIT_SECONDS = 30.0
#: How soon a signal is heard.
LOOK_SECONDS = 0.1


def connect(common: Common) -> SyncAgent:
    """The agent, not open yet."""
    return SyncAgent(
        common.name,
        environment=common.environment,
        instance=common.instance,
        capabilities=list(common.capabilities),
        version=__version__,
    )


def run(job: Job, *, once: bool, failures_ok: bool = False) -> bool:
    """Runs the agent; true if it did what it was started for. Messages that were not handled are no success, unless
    `failures_ok` says so."""
    job.is_once = once
    with connect(job.common) as agent, told_to_leave() as leave:
        try:
            job.attach(agent)
            has_worked = job.live(lambda leave: (run_once if once else run_on)(job, leave), leave.is_set)
        except SystemExit as ended:
            # A job says that all is well by returning, so a `sys.exit(0)` is none.
            raise ended if ended.code else SystemExit(1) from ended
        finally:
            job.close()
            if job.messages is not None:
                job.messages.report(agent.name)
    return has_worked and (failures_ok or job.messages is None or job.messages.is_clean)


def run_once(job: Job, leave: Callable[[], bool]) -> bool:
    """Handles what waits, does the job, handles what came meanwhile; again where that makes new work."""
    common = job.common

    def drain() -> None:
        def work() -> None:
            job.count(job.agent.drain(common.idle_seconds, common.concurrency, failures_ok=True, report=False))

        attend(job, leave, work)

    drain()
    is_first = True
    while not leave() and (is_first or job.wake.is_set()):
        is_first = False
        job.wake.clear()
        try:
            attend(job, leave, job.tick)
        except Exception as fault:
            report(fault)
            job.failures += 1
        drain()
    return job.failures == 0 and not leave()


def run_on(job: Job, leave: Callable[[], bool]) -> bool:
    """Until it is time to leave."""
    is_over = threading.Event()
    ends: list[BaseException] = []

    def work() -> None:
        while not is_over.is_set():
            try:
                job.tick()
            except Exception as fault:
                report(fault)
            except BaseException as fault:
                # Raised here, the fault would end this thread alone, and leave an agent that answers and does nothing.
                ends.append(fault)
                return
            job.wake.wait(job.common.every_seconds)
            job.wake.clear()

    worker = threading.Thread(target=work, name="work", daemon=True)
    worker.start()
    try:
        attend(job, lambda: leave() or bool(ends), lambda: job.agent.run(job.common.concurrency))
    finally:
        is_over.set()
        job.wake.set()
        worker.join(LEAVE_WAIT_SECONDS)
    if ends:
        logger.error("the job ended the process: %s", type(ends[0]).__name__)
        raise ends[0]
    return True


def attend(job: Job, leave: Callable[[], bool], do: Callable[[], object]) -> None:
    """Does it until it ends by itself, or until it is time to leave; raises what it raises."""
    faults: list[BaseException] = []
    is_over = threading.Event()

    def work() -> None:
        try:
            do()
        except BaseException as fault:
            faults.append(fault)
        finally:
            is_over.set()

    # Not in the main thread: the library would take the signals there, and the job must hear of them as well.
    thread = threading.Thread(target=work, name="attended", daemon=True)
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
    is_known = isinstance(fault, (Fault, PostbellError, psycopg.Error))
    logger.error("the job failed: %s", sentence(fault), exc_info=None if is_known else fault)

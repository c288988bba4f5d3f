"""Runs handlers: takes messages, calls who handles them, and says what became of each, however the handler ended."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from . import outcomes
from .errors import Closed, Invalid, Unreachable, Unreadable
from .fields import Unhandled
from .leaving import was_cancelled
from .limits import (
    GRACE_SECONDS,
    INTERRUPT_SECONDS,
    LEFT_SECONDS_MAX,
    LEFT_SECONDS_MIN,
    REPEATS_MAX,
    SEND_WAIT_SECONDS,
    WINDOW_MAX,
)
from .message import Message, reason_of, shown
from .outcomes import Outcome
from .registry import Handler, Handlers, is_async, name_of
from .repeats import Repeats, place_of
from .tally import Summary, Tally
from .threads import Threads

if TYPE_CHECKING:
    from .driver import Driver

logger = logging.getLogger("postbell")

_UNHANDLED = {
    "leave": 'they stay with the broker and come again later; @agent.on() would take them, unhandled="dead" ends them',
    "dead": "they are dead letters",
    "fail": "they fail, and are dead letters after their last attempt",
}


@dataclass(frozen=True)
class Terms:
    """How it is served."""

    concurrency: int
    #: Leaves after so long without a message; never where it is none.
    idle: float | None
    unhandled: Unhandled = "leave"
    #: A stop waits so long for what was begun.
    grace: float = GRACE_SECONDS
    #: Messages that were not handled in the end are no exception.
    failures_ok: bool = False
    #: Says at the end what became of all.
    report: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= WINDOW_MAX:
            raise Invalid(f"concurrency is between 1 and {WINDOW_MAX}, not {self.concurrency}")
        if self.unhandled not in _UNHANDLED:
            raise Invalid(f"unhandled is one of {', '.join(_UNHANDLED)}, not {self.unhandled!r}")
        if not self.grace >= 0:
            raise Invalid(f"grace is a number of seconds, not {self.grace}")


async def serve(
    driver: Driver, handlers: Handlers, terms: Terms, stop: asyncio.Event
) -> tuple[Summary, BaseException | None]:
    """Handles messages until it is stopped or idle; says what became of them, and what a handler ended the process with."""
    name = driver.settings.agent
    driver.tally = tally = Tally()
    threads = Threads(terms.concurrency, f"postbell-{name}")
    serving = _Serving(driver, handlers, threads, terms)
    try:
        await serving.run(stop)
    finally:
        threads.end()
        summary = Summary.of(serving.taken, tally)
        if terms.report:
            summary.report(name)
    leaving, handlers.left = serving.leaving or handlers.left, None
    return summary, leaving


class _Handling:
    """A message that a handler has."""

    def __init__(self, message: Message, handler: Handler) -> None:
        self.message = message
        self.handler = handler
        self.name = name_of(handler)
        self.task: asyncio.Task[BaseException | None] | None = None
        #: We ended it, because the agent must leave.
        self.is_interrupted = False


class _Serving:
    def __init__(self, driver: Driver, handlers: Handlers, threads: Threads, terms: Terms) -> None:
        self.taken = 0
        #: A handler ended the process: by this, once the others are through.
        self.leaving: BaseException | None = None
        self._driver = driver
        self._handlers = handlers
        self._threads = threads
        self._terms = terms
        self._loop = asyncio.get_running_loop()
        self._repeats = Repeats(logger)
        self._stop: asyncio.Event
        self._busy: set[_Handling] = set()
        self._busy_at = self._loop.time()
        # The tasks that have no message in hand.
        self._waiting: set[asyncio.Task[None]] = set()
        self._nobody_for: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        self._stop = stop
        workers = [asyncio.create_task(self._work()) for _ in range(self._terms.concurrency)]
        ending = asyncio.create_task(self._until(stop))
        try:
            await asyncio.wait({*workers, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            was_stopped = stop.is_set() or (ending.done() and not ending.cancelled())
            stop.set()
            for worker in self._waiting:
                worker.cancel()
            await self._finish([*workers, ending])
        for task in (ending, *workers):
            # One that was given up may not have noticed yet.
            fault = None if not task.done() or task.cancelled() else task.exception()
            if fault and not isinstance(fault, Closed):
                raise fault
            was_stopped = was_stopped or isinstance(fault, Closed)
        if self.leaving:
            # The broker has the failed attempt before the process is gone.
            await self._driver.flush()
        elif not was_stopped:
            raise asyncio.CancelledError("somebody cancelled the tasks that handle messages")

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """Waits up to `grace` for the running handlers; a second cancellation ends the wait."""
        is_cancelled = False
        try:
            await asyncio.wait(tasks, timeout=self._terms.grace)
        except asyncio.CancelledError:
            is_cancelled = True
        if any(not task.done() for task in tasks):
            await self._interrupt(tasks)
        if is_cancelled:
            raise asyncio.CancelledError

    async def _interrupt(self, tasks: list[asyncio.Task[None]]) -> None:
        for handling in self._busy:
            logger.warning("%s had not finished %r when the agent had to leave", handling.name, handling.message)
            handling.is_interrupted = True
            if handling.task:
                handling.task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait(tasks, timeout=INTERRUPT_SECONDS)
        for handling in self._busy:
            # A thread cannot be ended, and some tasks will not: then nobody waits for them.
            reason = f"{handling.name} had not finished when the agent had to leave"
            await handling.message.fail(reason)
            self._driver.tally.kind(handling.message.type, "not finished")
        for task in tasks:
            task.cancel()

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._stop.is_set():
            self._waiting.add(task)
            try:
                message = await self._driver.hands.take()
            finally:
                self._waiting.discard(task)
            self.taken += 1
            await self._handle(message)
            self._busy_at = self._loop.time()
            # Ours would keep it alive.
            del message

    async def _handle(self, message: Message) -> None:
        handler = self._handlers.of(message)
        if handler is None:
            return await self._nobody(message)
        handling = _Handling(message, handler)
        self._busy.add(handling)
        self._driver.begin(message)
        try:
            fault = await self._call(handling)
        finally:
            self._busy.discard(handling)
        if message.is_settled and fault is None:
            return None
        return await self._settle(handling, fault)

    async def _call(self, handling: _Handling) -> BaseException | None:
        """Returns the exception that left the handler; `None` if the handler returned."""
        handler, message = handling.handler, handling.message
        if is_async(handler):
            return await self._in_task(handling, handler, message)
        context, argument = contextvars.copy_context(), self._handlers.in_thread(message)
        # An exception is returned rather than raised: not every one passes a future.
        fault, result = await self._threads.run(lambda: _called(context, handler, argument))
        if fault is None and inspect.isawaitable(result):
            # A lambda, a wrapper: what it returns is what does it.
            return await self._in_task(handling, lambda _: result, message)
        if fault is None and (inspect.isgenerator(result) or inspect.isasyncgen(result)):
            return TypeError(f"{handling.name} returned a generator, which nobody runs")
        return fault

    async def _in_task(
        self, handling: _Handling, call: Callable[[Message], Awaitable[Any]], message: Message
    ) -> BaseException | None:
        """In a task of its own: what it cancels, or leaves of its context, is not ours."""
        handling.task = asyncio.create_task(_awaited(call, message), name=f"the handler {handling.name}")
        try:
            fault = await handling.task
        except asyncio.CancelledError as cancelled:
            # Before it began.
            handling.is_interrupted = True
            return cancelled
        if isinstance(fault, asyncio.CancelledError) and was_cancelled():
            handling.is_interrupted = True
        return fault

    async def _settle(self, handling: _Handling, fault: BaseException | None) -> None:
        outcome = outcomes.of(fault, is_interrupted=handling.is_interrupted)
        message = handling.message
        if outcome.leaving:
            self._leave(handling, outcome.leaving)
        if outcome.what in ("fail", "dead"):
            self._driver.tally.kind(message.type, "Dead" if outcome.what == "dead" else type(fault).__name__)
        if fault is not None and not outcome.is_meant:
            text = "%r could not be handled by %s: %s"
            self._repeats.warning(place_of(fault), text, message, handling.name, outcome.reason, fault=fault)
        try:
            await self._say(message, outcome)
        except Invalid as invalid:
            # Such as a delay that is none: the attempt failed all the same.
            await message.fail(f"{outcome.reason or outcome.what}; and {reason_of(invalid)}")

    async def _say(self, message: Message, outcome: Outcome) -> None:
        match outcome.what:
            case "ack":
                await message.ack(confirm=False)
            case "release":
                await message.release(outcome.delay)
            case "dead":
                await message.dead(outcome.reason or "")
            case _:
                await message.fail(outcome.reason or "", outcome.delay)

    def _leave(self, handling: _Handling, leaving: BaseException) -> None:
        """The first one decides how the process ends; what others have begun is finished."""
        logger.error("the handler %s ends the process: %s", handling.name, reason_of(leaving))
        self.leaving = self.leaving or leaving
        self._stop.set()

    async def _nobody(self, message: Message) -> None:
        """Nobody handles its type: no fault of the message's, and a line a type."""
        if message.type not in self._nobody_for and len(self._nobody_for) < REPEATS_MAX:
            self._nobody_for.add(message.type)
            what = _UNHANDLED[self._terms.unhandled]
            logger.warning("nobody here handles messages of type %s: %s", shown(message.type), what)
        reason = f"this agent has no handler for messages of type {shown(message.type)}"
        if self._terms.unhandled == "leave":
            self._driver.leave(message, _left_seconds(message))
            return
        self._driver.tally.kind(message.type, "no handler")
        if self._terms.unhandled == "dead":
            await message.dead(reason)
        else:
            await message.fail(reason)

    async def _until(self, stop: asyncio.Event) -> None:
        """Returns when it is time to leave."""
        idle = self._terms.idle
        while not stop.is_set():
            if idle is None:
                await stop.wait()
                continue
            if self._driver.session is None:
                await self._until_connected()
            quiet_at = max(self._busy_at, self._driver.heard_at)
            left = idle if self._busy else quiet_at + idle - self._loop.time()
            if left <= 0 and not len(self._driver.hands):
                return
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), max(left, 0.01))

    async def _until_connected(self) -> None:
        # While the broker is away nobody can tell how much waits there, and a job must not wait for ever.
        try:
            await asyncio.wait_for(self._driver.connected.wait(), SEND_WAIT_SECONDS)
        except asyncio.TimeoutError:
            address = str(self._driver.settings.address)
            raise Unreachable(address, f"the connection was not made again within {SEND_WAIT_SECONDS:g} s") from None


def _called(context: contextvars.Context, handler: Handler, argument: object) -> tuple[BaseException | None, object]:
    try:
        return None, context.run(handler, argument)
    except BaseException as fault:
        return fault, None


async def _awaited(call: Callable[[Message], Awaitable[Any]], message: Message) -> BaseException | None:
    try:
        await call(message)
    except BaseException as fault:
        return fault
    return None


def _left_seconds(message: Message) -> float:
    """As long again as it is old: what nobody wants is asked about seldom."""
    try:
        age = (datetime.now(timezone.utc) - message.created_at).total_seconds()
    except (Unreadable, OverflowError):
        age = 0.0
    return min(max(age, LEFT_SECONDS_MIN), LEFT_SECONDS_MAX)

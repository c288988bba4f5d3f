"""Handlers by the type of message, and what runs them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import Closed, Invalid, Unreachable
from .limits import SEND_WAIT_SECONDS, WINDOW_MAX
from .message import Dead, Message, Release, Retry, reason_of
from .signals import on_signals

if TYPE_CHECKING:
    from .agent import Agent
    from .driver import Driver

logger = logging.getLogger("postbell")

Handler = Callable[[Any], Any]
H = TypeVar("H", bound=Handler)

_ANY = ""


class Handlers:
    """Who handles what."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._stops: set[asyncio.Event] = set()
        #: What a `def` is called with: the message, or what stands for it in a thread.
        self.in_thread: Callable[[Message], Any] = lambda message: message

    def on(self, *types: str) -> Callable[[H], H]:
        """See `Agent.on`."""

        def register(handler: H) -> H:
            for kind in types or (_ANY,):
                if kind in self._by_type:
                    raise Invalid(f"there are two handlers for messages of type {kind or 'any'}")
                self._by_type[kind] = handler
            return handler

        return register

    def of(self, message: Message) -> Handler | None:
        """Who handles this one."""
        return self._by_type.get(message.type) or self._by_type.get(_ANY)

    @property
    def is_empty(self) -> bool:
        """Nobody handles anything."""
        return not self._by_type

    def stop(self) -> None:
        """Those that run finish what they have begun."""
        for stop in self._stops:
            stop.set()

    @contextmanager
    def stopping(self) -> Iterator[asyncio.Event]:
        """Set by `stop`, SIGTERM and SIGINT."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stops.add(stop)
        try:
            with on_signals(lambda: loop.call_soon_threadsafe(stop.set)):
                yield stop
        finally:
            self._stops.discard(stop)


async def serve(agent: Agent, handlers: Handlers, *, concurrency: int, idle: float | None) -> int:
    """Handles messages, `concurrency` side by side, until it is stopped or idle; says how many it took."""
    if handlers.is_empty:
        raise Invalid("there is no handler: give one by @agent.on(…), or read agent.messages()")
    if not 1 <= concurrency <= WINDOW_MAX:
        raise Invalid(f"concurrency is between 1 and {WINDOW_MAX}, not {concurrency}")
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix=f"postbell-{agent.name}")
    try:
        with handlers.stopping() as stop, agent._taking(agent._settings.window or concurrency) as driver:
            return await _Serving(driver, handlers, threads).run(concurrency, idle, stop)
    finally:
        # Waiting for them here would stop the loop; there is nothing to wait for but what a second cancellation left.
        threads.shutdown(wait=False)


class _Serving:
    def __init__(self, driver: Driver, handlers: Handlers, threads: ThreadPoolExecutor) -> None:
        self._driver = driver
        self._handlers = handlers
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._taken = 0
        self._busy = 0
        self._busy_at = self._loop.time()
        # Those that have no message in hand.
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(self, concurrency: int, idle: float | None, stop: asyncio.Event) -> int:
        workers = [asyncio.create_task(self._work(stop)) for _ in range(concurrency)]
        ending = asyncio.create_task(self._until(stop, idle))
        try:
            await asyncio.wait({*workers, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            for worker in self._waiting:
                worker.cancel()
            await self._finish([*workers, ending])
        for task in (ending, *workers):
            fault = None if task.cancelled() else task.exception()
            if fault and not isinstance(fault, Closed):
                raise fault
        return self._taken

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """What is being handled is finished; unless we are cancelled once more."""
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise

    async def _work(self, stop: asyncio.Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not stop.is_set():
            self._waiting.add(task)
            try:
                message = await self._driver.hands.take()
            finally:
                self._waiting.discard(task)
            self._taken += 1
            self._busy += 1
            try:
                await self._handle(message)
            finally:
                self._busy -= 1
                self._busy_at = self._loop.time()

    async def _handle(self, message: Message) -> None:
        try:
            await self._call(message)
        except Retry as retry:
            await message.fail(reason_of(retry.__cause__ or retry), retry.delay)
        except Dead as dead:
            await message.dead(str(dead))
        except Release as release:
            await message.release(release.delay)
        except asyncio.CancelledError:
            await message.release()
            raise
        except Exception as fault:
            logger.warning("%r could not be handled", message, exc_info=fault)
            await message.fail(reason_of(fault))
        else:
            await message.ack(confirm=False)

    async def _call(self, message: Message) -> None:
        handler = self._handlers.of(message)
        if handler is None:
            raise LookupError(f"this agent has no handler for messages of type {message.type}")
        if inspect.iscoroutinefunction(handler):
            await handler(message)
            return
        context, argument = contextvars.copy_context(), self._handlers.in_thread(message)

        def call() -> Exception | None:
            # Returned rather than raised: not every exception passes a future.
            try:
                context.run(handler, argument)
            except Exception as fault:
                return fault
            return None

        if fault := await self._loop.run_in_executor(self._threads, call):
            raise fault

    async def _until(self, stop: asyncio.Event, idle: float | None) -> None:
        """Returns when it is time to leave."""
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
        # What waits with the broker cannot be told while it is away, and a job must not wait for ever.
        try:
            await asyncio.wait_for(self._driver.connected.wait(), SEND_WAIT_SECONDS)
        except asyncio.TimeoutError:
            address = str(self._driver.settings.address)
            raise Unreachable(address, f"the connection was not made again within {SEND_WAIT_SECONDS:g} s") from None

"""The same for scripts that block: an agent whose connection lives in a thread of its own, so that heartbeats and
deadlines are kept while the script does something else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

from . import forks
from .agent import Agent
from .blocking import SyncLock, SyncMessage
from .dead import Administered, DeadLetters
from .errors import Closed, Forked, Invalid
from .fields import Draining, Given, Question, Questions, Sending, Serving, Unpack
from .limits import LOCK_SECONDS
from .lock import Lock, Locking
from .message import Duration, Reply
from .outcomes import LEAVING
from .signals import on_signals
from .tally import Summary

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])


class SyncAgent:
    """`Agent` without `async`: each method blocks until it is done, and any thread may call it."""

    def __init__(self, name: str | None = None, **given: Unpack[Given]) -> None:
        self._agent = Agent(name, **given)
        self._agent.handlers.in_thread = lambda message: SyncMessage(self._call, message)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        # Calls that wait for the thread, which may end before it answers.
        self._asked: set[Future[Any]] = set()
        self._running = 0
        self._is_leaving = False
        self._is_forked = False
        forks.tell(self)

    def forked(self) -> None:
        """In a child: there is no such thread here, and the connection is the parent's."""
        self._is_forked = self._is_forked or self._loop is not None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The agent that this is."""
        return self._agent.name

    @property
    def environment(self) -> str | None:
        """Where it runs, as ENVIRONMENT says."""
        return self._agent.environment

    @property
    def is_connected(self) -> bool:
        """Whether there is a session now; where there is none, it is being made again."""
        return self._agent.is_connected

    def connect(self) -> None:
        """Connects once, or raises why not; from then on the connection is kept up."""
        if self._is_forked:
            # Neither ended nor closed: they are the parent's, and so is what a selector of theirs looks at.
            _abandoned.append((self._loop, self._thread))
            self._loop, self._thread, self._asked, self._running = None, None, set(), 0
            self._is_forked = self._is_leaving = False
        # From now on it is told of forks of this process.
        forks.tell(self)
        if self._loop is not None and not self._is_leaving:
            return
        if self._loop is not None:
            # A handler closed it, and opens it again.
            self._is_leaving = False
            self._call(self._agent.connect())
            return
        self._is_leaving = False
        self._loop = asyncio.new_event_loop()
        # A daemon: a script that ends without closing must end.
        self._thread = threading.Thread(target=self._turn, args=(self._loop,), name=f"postbell-{self.name}", daemon=True)
        self._thread.start()
        try:
            self._call(self._agent.connect())
        except BaseException:
            self._end_thread()
            raise

    def close(self) -> None:
        """Gives back what was not handled, writes what was, and says goodbye."""
        self._leave(None)

    def __enter__(self) -> SyncAgent:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(fault)

    def _leave(self, fault: BaseException | None) -> None:
        if self._loop is None or self._is_forked:
            return
        try:
            self._call(self._agent.__aexit__(None if fault is None else type(fault), fault, None))
        finally:
            with self._lock:
                self._is_leaving = True
                is_running = self._running > 0
            # A handler closes it: `run` ends first.
            if not is_running:
                self._end_thread()

    @contextmanager
    def _serving(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            with on_signals(self.stop):
                yield
        finally:
            with self._lock:
                self._running -= 1
                is_last = self._is_leaving and self._running == 0
            if is_last and not self._is_forked:
                self._end_thread()

    def _end_thread(self) -> None:
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop and thread:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def messages(self, window: int | None = None) -> Generator[SyncMessage, None, None]:
        """See `Agent.messages`."""
        messages = self._agent.messages(window)
        try:
            while True:
                try:
                    message = SyncMessage(self._call, self._call(anext(messages)))
                except StopAsyncIteration:
                    return
                yield message
                # Ours would keep it alive after the reader forgot it.
                del message
        finally:
            with suppress(Closed, Forked):
                self._call(messages.aclose())

    def on(self, *types: str) -> Callable[[H], H]:
        """See `Agent.on`. A `def` gets a `SyncMessage`."""
        return self._agent.on(*types)

    def run(self, concurrency: int = 1, **serving: Unpack[Serving]) -> Summary:
        """See `Agent.run`. Handlers run in threads of their own, `concurrency` of them."""
        with self._serving():
            return self._call(self._agent.run(concurrency, **serving))

    def drain(self, idle: float = 5.0, concurrency: int = 1, **serving: Unpack[Draining]) -> Summary:
        """See `Agent.drain`."""
        with self._serving():
            return self._call(self._agent.drain(idle, concurrency, **serving))

    def stop(self) -> None:
        """Ends `run` and `drain` once they have finished what they have begun. From any thread, or a signal's handler."""
        if self._loop is not None and not self._is_forked:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._agent.stop)

    def send(self, **fields: Unpack[Sending]) -> str:
        """See `Agent.send`."""
        return self._call(self._agent.send(**fields))

    def request(self, **fields: Unpack[Question]) -> Reply:
        """See `Agent.request`."""
        return self._call(self._agent.request(**fields))

    def request_all(self, **fields: Unpack[Questions]) -> list[Reply]:
        """See `Agent.request_all`."""
        return self._call(self._agent.request_all(**fields))

    def lock(self, key: str, ttl: Duration = LOCK_SECONDS) -> SyncLock:
        """See `Agent.lock`; it asks at once, and is used by ``with``."""

        async def acquire() -> Lock:
            locking: Locking = self._agent.lock(key, ttl)
            return await locking

        return SyncLock(self._call, self._call(acquire()))

    def subscribe(self, topic: str) -> None:
        """See `Agent.subscribe`."""
        self._call(self._agent.subscribe(topic))

    def unsubscribe(self, topic: str) -> None:
        """See `Agent.unsubscribe`."""
        self._call(self._agent.unsubscribe(topic))

    def dead_letters(self, inbox: str | None = None, after: int | None = None, limit: int | None = None) -> DeadLetters:
        """See `Agent.dead_letters`."""
        return self._call(self._agent.dead_letters(inbox, after, limit))

    def redrive(self, *, ids: list[int] | None = None, inbox: str | None = None) -> Administered:
        """See `Agent.redrive`."""
        return self._call(self._agent.redrive(ids=ids, inbox=inbox))

    def purge(self, *, ids: list[int] | None = None, inbox: str | None = None) -> Administered:
        """See `Agent.purge`."""
        return self._call(self._agent.purge(ids=ids, inbox=inbox))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        loop = self._loop
        if loop is None or self._is_forked or threading.current_thread() is self._thread:
            work.close()
            if self._is_forked:
                raise Forked
            if loop is None:
                raise Closed
            raise Invalid(
                "a SyncAgent's methods block, and would wait for ever for the event loop that they are called in: make the "
                "handler a `def`, or use the methods of its message"
            )
        try:
            asked: Future[T | _Left] = asyncio.run_coroutine_threadsafe(_kept(work), loop)
        except RuntimeError:
            # Closed by another thread at this moment.
            work.close()
            raise Closed from None
        self._asked.add(asked)
        try:
            result = asked.result()
        except BaseException:
            # Ctrl-C here must not leave it running there.
            asked.cancel()
            raise
        finally:
            self._asked.discard(asked)
        if isinstance(result, _Left):
            raise result.by
        return result

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread. Nothing ends it but its agent: whoever waits for it would wait for ever."""
        asyncio.set_event_loop(loop)
        try:
            while True:
                try:
                    loop.run_forever()
                    break
                except LEAVING as leaving:
                    # Out of a task that a handler started.
                    self._agent.handlers.leave(leaving)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            for asked in list(self._asked):
                with suppress(Exception):
                    asked.set_exception(Closed())


class _Left:
    """An exception that ends the process, on its way out of a loop that must not end by it."""

    def __init__(self, by: BaseException) -> None:
        self.by = by


async def _kept(work: Coroutine[Any, Any, T]) -> T | _Left:
    try:
        return await work
    except LEAVING as leaving:
        return _Left(leaving)


#: Loops and threads of a parent's, in a child that was forked.
_abandoned: list[tuple[object, object]] = []

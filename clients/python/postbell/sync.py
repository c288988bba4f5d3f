"""The same for scripts that block: an agent whose connection lives in a thread of its own, so that heartbeats and
deadlines are kept while the script does something else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .agent import Agent
from .dead import DeadLetters
from .errors import Closed
from .limits import ANSWER_TTL_SECONDS, ANSWER_WAIT_SECONDS, LOCK_SECONDS
from .lock import Lock, Locking
from .message import Duration, Facts, Message, Reply
from .settings import Capabilities
from .signals import on_signals

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])


class SyncMessage(Facts):
    """A `Message` whose methods block until they are done."""

    __slots__ = ("_agent", "_message")

    def __init__(self, agent: SyncAgent, message: Message) -> None:
        super().__init__(message._frame)
        self._agent = agent
        self._message = message

    @property
    def is_settled(self) -> bool:
        """Whether something became of it here."""
        return self._message.is_settled

    def ack(self, *, confirm: bool = True) -> bool:
        """See `Message.ack`."""
        return self._agent._call(self._message.ack(confirm=confirm))

    def fail(self, reason: str, delay: Duration | None = None) -> bool:
        """See `Message.fail`."""
        return self._agent._call(self._message.fail(reason, delay))

    def dead(self, reason: str) -> bool:
        """See `Message.dead`."""
        return self._agent._call(self._message.dead(reason))

    def release(self, delay: Duration | None = None) -> bool:
        """See `Message.release`."""
        return self._agent._call(self._message.release(delay))

    def reply(
        self,
        payload: Any = None,
        *,
        headers: dict[str, Any] | None = None,
        ttl: Duration | None = ANSWER_TTL_SECONDS,
    ) -> str:
        """See `Message.reply`."""
        return self._agent._call(self._message.reply(payload, headers=headers, ttl=ttl))


class SyncLock:
    """A `Lock` whose methods block until they are done. It is renewed by itself, whatever the script does meanwhile."""

    def __init__(self, agent: SyncAgent, lock: Lock) -> None:
        self._agent = agent
        self._lock = lock

    @property
    def key(self) -> str:
        """Which lock it is."""
        return self._lock.key

    @property
    def held(self) -> bool:
        """Whether it is ours, at this moment."""
        return self._lock.held

    @property
    def fence(self) -> int | None:
        """See `Lock`."""
        return self._lock.fence

    @property
    def holder(self) -> str | None:
        """See `Lock`."""
        return self._lock.holder

    @property
    def left(self) -> float | None:
        """See `Lock`."""
        return self._lock.left

    @property
    def is_done(self) -> bool:
        """See `Lock`."""
        return self._lock.is_done

    def release(self) -> None:
        """See `Lock.release`."""
        self._agent._call(self._lock.release())

    def done(self) -> None:
        """See `Lock.done`."""
        self._agent._call(self._lock.done())

    def __enter__(self) -> SyncLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._agent._call(self._lock.__aexit__(kind, fault, trace))


class SyncAgent:
    """`Agent` without `async`: each method blocks until it is done, and any thread may call it."""

    def __init__(
        self,
        name: str | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        window: int | None = None,
        instance: str | None = None,
        group: str | None = None,
        environment: str | None = None,
        capabilities: Capabilities | None = None,
        version: str | None = None,
        heartbeat: float | None = None,
        ca: str | Path | None = None,
        pin: str | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
    ) -> None:
        self._agent = Agent(
            name,
            url=url,
            token=token,
            window=window,
            instance=instance,
            group=group,
            environment=environment,
            heartbeat=heartbeat,
            capabilities=capabilities,
            version=version,
            ca=ca,
            pin=pin,
            client_cert=client_cert,
            client_key=client_key,
        )
        self._agent._handlers.in_thread = lambda message: SyncMessage(self, message)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

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
        if self._loop is not None:
            return
        self._loop = asyncio.new_event_loop()
        # A daemon: a script that ends without closing must end.
        self._thread = threading.Thread(target=_turn, args=(self._loop,), name=f"postbell-{self.name}", daemon=True)
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
        if self._loop is None:
            return
        try:
            self._call(self._agent._leave(fault))
        finally:
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
                    message = SyncMessage(self, self._call(anext(messages)))
                except StopAsyncIteration:
                    return
                yield message
                # Ours would keep it alive after the reader forgot it.
                del message
        finally:
            if self._loop is not None:
                self._call(messages.aclose())

    def on(self, *types: str) -> Callable[[H], H]:
        """See `Agent.on`. A `def` gets a `SyncMessage`."""
        return self._agent.on(*types)

    def run(self, concurrency: int = 1) -> int:
        """See `Agent.run`. Handlers run in threads of their own, `concurrency` of them."""
        with on_signals(self.stop):
            return self._call(self._agent.run(concurrency))

    def drain(self, idle: float = 5.0, concurrency: int = 1) -> int:
        """See `Agent.drain`."""
        with on_signals(self.stop):
            return self._call(self._agent.drain(idle, concurrency))

    def stop(self) -> None:
        """Ends `run` and `drain` once they have finished what they have begun. From any thread, or a signal's handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._agent.stop)

    def send(
        self,
        *,
        to: str | None = None,
        topic: str | None = None,
        environment: str | None = None,
        group: str | None = None,
        type: str = "data",
        payload: Any = None,
        priority: int = 5,
        delay: Duration | None = None,
        ttl: Duration | None = None,
        correlation_id: str | None = None,
        headers: dict[str, Any] | None = None,
        dedupe_key: str | None = None,
        ordering_key: str | None = None,
        to_instance: str | None = None,
    ) -> str:
        """See `Agent.send`."""
        return self._call(
            self._agent.send(
                to=to,
                topic=topic,
                environment=environment,
                group=group,
                type=type,
                payload=payload,
                priority=priority,
                delay=delay,
                ttl=ttl,
                correlation_id=correlation_id,
                headers=headers,
                dedupe_key=dedupe_key,
                ordering_key=ordering_key,
                to_instance=to_instance,
            )
        )

    def request(
        self,
        *,
        to: str | None = None,
        topic: str | None = None,
        environment: str | None = None,
        group: str | None = None,
        type: str = "query",
        payload: Any = None,
        timeout: Duration = ANSWER_WAIT_SECONDS,
        priority: int = 5,
        headers: dict[str, Any] | None = None,
    ) -> Reply:
        """See `Agent.request`."""
        return self._call(
            self._agent.request(
                to=to,
                topic=topic,
                environment=environment,
                group=group,
                type=type,
                payload=payload,
                timeout=timeout,
                priority=priority,
                headers=headers,
            )
        )

    def request_all(
        self,
        *,
        to: str | None = None,
        topic: str | None = None,
        environment: str | None = None,
        group: str | None = None,
        type: str = "query",
        payload: Any = None,
        timeout: Duration = ANSWER_WAIT_SECONDS,
        count: int | None = None,
        priority: int = 5,
        headers: dict[str, Any] | None = None,
    ) -> list[Reply]:
        """See `Agent.request_all`."""
        return self._call(
            self._agent.request_all(
                to=to,
                topic=topic,
                environment=environment,
                group=group,
                type=type,
                payload=payload,
                timeout=timeout,
                count=count,
                priority=priority,
                headers=headers,
            )
        )

    def lock(self, key: str, ttl: Duration = LOCK_SECONDS) -> SyncLock:
        """See `Agent.lock`; it asks at once, and is used by ``with``."""

        async def acquire() -> Lock:
            locking: Locking = self._agent.lock(key, ttl)
            return await locking

        return SyncLock(self, self._call(acquire()))

    def subscribe(self, topic: str) -> None:
        """See `Agent.subscribe`."""
        self._call(self._agent.subscribe(topic))

    def unsubscribe(self, topic: str) -> None:
        """See `Agent.unsubscribe`."""
        self._call(self._agent.unsubscribe(topic))

    def dead_letters(self, inbox: str | None = None, after: int | None = None, limit: int | None = None) -> DeadLetters:
        """See `Agent.dead_letters`."""
        return self._call(self._agent.dead_letters(inbox, after, limit))

    def redrive(self, *, ids: list[int] | None = None, inbox: str | None = None) -> int:
        """See `Agent.redrive`."""
        return self._call(self._agent.redrive(ids=ids, inbox=inbox))

    def purge(self, *, ids: list[int] | None = None, inbox: str | None = None) -> int:
        """See `Agent.purge`."""
        return self._call(self._agent.purge(ids=ids, inbox=inbox))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise Closed
        asked: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result()
        except BaseException:
            # Ctrl-C here must not leave it running there.
            asked.cancel()
            raise


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()

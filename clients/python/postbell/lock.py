"""Locks: of several agents that could do a task, one does it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Protocol

from . import forks
from .errors import Invalid, LockLost, PostbellError, Refused
from .frames import Frame, seconds
from .limits import LOCK_MS_MAX, LOCK_MS_MIN
from .message import Duration, milliseconds

logger = logging.getLogger("postbell")

#: A lock is held for longer when a third of its time has passed.
RENEWALS_A_TTL = 3
#: After a renewal that failed.
RENEW_AGAIN_SECONDS = 0.2
#: A lock that nobody has was given back this moment, or taken by somebody whom the broker does not see yet: it is asked
#: for again.
TRIES_MAX = 5


class Asker(Protocol):
    """Asks the broker, for a lock."""

    def __call__(self, frame: Frame, within: float = ...) -> Awaitable[Frame]:
        """The broker's answer."""


class Lock:
    """The answer to asking for a lock. While it is held it is renewed by itself; when this process dies, others get it
    after its time.

    As a context it is given back at the end of the block, unless `done` was said in it; the end raises `LockLost` where it
    was lost meanwhile: then others may have done the task as well."""

    def __init__(self, ask: Asker, key: str, ttl_ms: int, asked_at: float, answer: Frame) -> None:
        self._ask = ask
        self._ttl_ms = ttl_ms
        self.key = key
        #: Whether it is ours, at this moment.
        self.held = answer.get("held") is True
        #: Grows with each holder: what is written with it can be told from what a holder that is too late still writes.
        #: `None` where the lock was not to be had.
        self.fence: int | None = answer.get("fence")
        #: Whose it is, or was when the task was done; `None` where it is ours.
        self.holder: str | None = answer.get("holder")
        #: For how many seconds still, unless its holder renews it.
        self.left: float | None = seconds(answer, "left_ms")
        #: The task is done: nobody needs to do it any more.
        self.is_done = answer.get("done") is True
        self._until = asked_at + ttl_ms / 1000
        self._lost = asyncio.Event()
        self._renewing = asyncio.create_task(self._renew(), name=f"postbell-lock-{key}") if self.held else None

    async def release(self) -> None:
        """Gives it back: others may do the task. Nothing happens where it is not held. Raises `LockLost`."""
        if self.held:
            await self._end(done=False)

    async def done(self) -> None:
        """The task is done: nobody gets the lock any more, until the broker's retention forgets it. Raises `LockLost` where
        it is not held: then another does the task too, or did."""
        if not self.held:
            raise LockLost(self.key)
        await self._end(done=True)
        self.is_done = True

    async def lost(self) -> None:
        """Returns when the lock is not ours any more though nobody gave it back: whoever goes on with the task does it
        beside somebody else."""
        await self._lost.wait()

    def when_over(self, tell: Callable[[Lock], object]) -> None:
        """Told once it is not renewed any more."""
        if self._renewing:
            self._renewing.add_done_callback(lambda _: tell(self))

    def drop(self) -> None:
        """The lock is not renewed any more, and ends by its time."""
        if self._renewing:
            self._renewing.cancel()
        if self.held:
            self._lose()

    async def __aenter__(self) -> Lock:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lost.is_set():
                raise LockLost(self.key)
            await self.release()
        except PostbellError as late:
            # Not in the place of what went wrong in the block; and one that could not be given back ends by its time.
            if fault is None and isinstance(late, LockLost):
                raise
            logger.warning("%s", late)

    async def _end(self, *, done: bool) -> None:
        if self._renewing:
            self._renewing.cancel()
        # Whatever the answer is: it is not ours to rely on any more.
        self.held = False
        frame: Frame = {"op": "release", "key": self.key, "fence": self.fence}
        try:
            await self._ask(frame | {"done": True} if done else frame)
        except Refused as refused:
            if refused.code == "rejected":
                raise LockLost(self.key, refused.message) from None
            raise

    def _lose(self) -> None:
        self.held = False
        self._lost.set()

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        usual = self._ttl_ms / 1000 / RENEWALS_A_TTL
        wait = usual
        while True:
            await asyncio.sleep(wait)
            asked_at = loop.time()
            try:
                frame = {"op": "acquire", "key": self.key, "ttl_ms": self._ttl_ms, "fence": self.fence}
                answer = await self._ask(frame, max(0.0, self._until - asked_at))
            except PostbellError as fault:
                # Away, or too slow: as long as there is time, again.
                if fault.is_retryable and loop.time() < self._until:
                    wait = RENEW_AGAIN_SECONDS
                    continue
                logger.warning("the lock %s could not be renewed: %s", self.key, fault)
                return self._lose()
            if not answer.get("held"):
                logger.warning("the lock %s was lost: %s has it", self.key, answer.get("holder"))
                return self._lose()
            # From before it was asked: on our clock it ends no later than on the server's.
            self._until, wait = asked_at + self._ttl_ms / 1000, usual


class Locking:
    """A lock that was not asked for yet: ``async with`` and ``await`` do."""

    def __init__(self, acquire: Callable[[], Awaitable[Lock]]) -> None:
        self._acquire = acquire
        self._lock: Lock | None = None

    def __await__(self) -> Generator[None, None, Lock]:
        return self._acquire().__await__()

    async def __aenter__(self) -> Lock:
        self._lock = await self
        return self._lock

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock:
            await self._lock.__aexit__(kind, fault, trace)


class Locks:
    """The locks of an agent, which end with it."""

    def __init__(self) -> None:
        self._locks: set[Lock] = set()
        forks.tell(self)

    def locking(self, ask: Asker, key: str, ttl: Duration) -> Locking:
        """See `Agent.lock`."""
        ttl_ms = milliseconds("ttl", ttl)
        if ttl_ms is None or not LOCK_MS_MIN <= ttl_ms <= LOCK_MS_MAX:
            raise Invalid(f"a lock's ttl is between {LOCK_MS_MIN / 1000:g} s and an hour, not {ttl}")

        async def acquire() -> Lock:
            for _ in range(TRIES_MAX):
                asked_at = asyncio.get_running_loop().time()
                answer = await ask({"op": "acquire", "key": key, "ttl_ms": ttl_ms})
                if answer.get("held") or answer.get("holder"):
                    break
            lock = Lock(ask, key, ttl_ms, asked_at, answer)
            if lock.held:
                self._locks.add(lock)
                lock.when_over(self._locks.discard)
            return lock

        return Locking(acquire)

    def forked(self) -> None:
        """In the child: they are the parent's."""
        for lock in self._locks:
            lock.held = False
        self._locks.clear()

    def drop_all(self) -> None:
        """The agent leaves."""
        for lock in list(self._locks):
            lock.drop()

"""The messages and locks that a `SyncAgent` hands out; their methods block."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, TypeVar

from .errors import Forked
from .limits import ANSWER_TTL_SECONDS
from .lock import Lock
from .message import Duration, Facts, Message

T = TypeVar("T")


class Call(Protocol):
    """Waits for work in the event loop's thread."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns what the work returned, or raises what it raised."""


class SyncMessage(Facts):
    """A `Message` whose methods block until they are done."""

    __slots__ = ("_call", "_message")

    def __init__(self, call: Call, message: Message) -> None:
        super().__init__(message.frame)
        self._call = call
        self._message = message

    @property
    def is_settled(self) -> bool:
        """Whether something became of it here."""
        return self._message.is_settled

    def ack(self, *, confirm: bool = True) -> bool:
        """See `Message.ack`."""
        return self._call(self._message.ack(confirm=confirm))

    def fail(self, reason: str, delay: Duration | None = None) -> bool:
        """See `Message.fail`."""
        return self._call(self._message.fail(reason, delay))

    def dead(self, reason: str) -> bool:
        """See `Message.dead`."""
        return self._call(self._message.dead(reason))

    def release(self, delay: Duration | None = None) -> bool:
        """See `Message.release`."""
        return self._call(self._message.release(delay))

    def reply(
        self,
        payload: Any = None,
        *,
        headers: dict[str, Any] | None = None,
        ttl: Duration | None = ANSWER_TTL_SECONDS,
    ) -> str:
        """See `Message.reply`."""
        return self._call(self._message.reply(payload, headers=headers, ttl=ttl))


class SyncLock:
    """A `Lock` whose methods block until they are done, and that is renewed by itself, whatever the script does meanwhile."""

    def __init__(self, call: Call, lock: Lock) -> None:
        self._call = call
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
        self._call(self._lock.release())

    def done(self) -> None:
        """See `Lock.done`."""
        self._call(self._lock.done())

    def __enter__(self) -> SyncLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        # In a child that was forked it is not ours to give back.
        with suppress(Forked):
            self._call(self._lock.__aexit__(kind, fault, trace))

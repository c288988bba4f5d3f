"""A message in the agent's hands, and what its handler may say of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from .errors import Invalid, PostbellError, Unreadable
from .frames import Frame
from .limits import ANSWER_TTL_SECONDS, DURATION_MS_MAX

PRIORITY_DEFAULT = 5
#: The most of a name that is shown.
SHOWN_MAX = 200

#: Seconds, or a timedelta.
Duration = float | timedelta


class Retry(Exception):
    """Raised by a handler: it failed; pushed again after `delay`, or after the broker's growing one. After the last attempt
    it is a dead letter."""

    def __init__(self, delay: Duration | None = None, reason: str | None = None) -> None:
        super().__init__(reason or "to be tried again")
        self.delay = delay


class Dead(Exception):
    """Raised by a handler: it can never be handled, and is a dead letter at once."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Release(Exception):
    """Raised by a handler: not handled, and nobody's fault; pushed again, not before `delay`, and not counted."""

    def __init__(self, delay: Duration | None = None) -> None:
        super().__init__("given back")
        self.delay = delay


class Settler(Protocol):
    """The side of a message that tells the broker."""

    def ack(self, message: Message, told: Callable[[bool], None] | None) -> None:
        """Handled; `told` whether that is committed."""

    def nack(self, message: Message, outcome: str, *, delay_ms: int | None, reason: str | None) -> bool:
        """Not handled; true if the broker is told."""

    def dropped(self, message_id: str, tag: int, connection: int) -> None:
        """Forgotten."""

    def check_ours(self) -> None:
        """Raises `Forked` in a child."""

    async def reply(self, to: Facts, **more: Any) -> str:
        """An answer; gives back its id."""


class Facts:
    """The fields of a message."""

    __slots__ = ("frame", "id", "sender", "type")

    def __init__(self, frame: Frame) -> None:
        try:
            #: The message's id, the same at each attempt.
            self.id: str = frame["id"]
            #: The agent that sent it: `from` in the protocol.
            self.sender: str = frame["from"]
            #: command, query, response, alert, heartbeat or data.
            self.type: str = frame["type"]
            are_texts = type(self.id) is type(self.sender) is type(self.type) is type(frame["created_at"]) is str
        except KeyError as fault:
            raise Unreadable(f"it has no {fault.args[0]}") from fault
        if not are_texts:
            raise Unreadable("its id, from, type or created_at is no text")
        #: The broker's line, decoded.
        self.frame = frame

    @property
    def payload(self) -> Any:
        """The value that was sent, as `json.loads` has it."""
        return self.frame.get("payload")

    @property
    def priority(self) -> int:
        """1 (highest) to 10."""
        value = self.frame.get("priority")
        return value if type(value) is int else PRIORITY_DEFAULT

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        value = self.frame.get("attempt")
        return value if type(value) is int else 1

    @property
    def created_at(self) -> datetime:
        """When it was inserted, by the database's clock; the earliest or the latest that Python has where it has no such
        time."""
        return _instant(self.frame["created_at"])

    @property
    def topic(self) -> str | None:
        """The topic it was sent to, if it was."""
        return self._text("topic")

    @property
    def group(self) -> str | None:
        """The group it was sent to, if it was."""
        return self._text("group")

    @property
    def correlation_id(self) -> str | None:
        """The id by which a question and its answers belong together."""
        return self._text("correlation_id")

    @property
    def headers(self) -> dict[str, Any]:
        """The JSON object that travelled along; empty where there is none."""
        # Plain SQL may have written anything.
        headers = self.frame.get("headers")
        return headers if isinstance(headers, dict) else {}

    @property
    def reply_to(self) -> str | None:
        """The process of the sender's that waits for an answer, if one does; see `Message.reply`."""
        value = self.headers.get("reply_to")
        return value if isinstance(value, str) else None

    def _text(self, key: str) -> str | None:
        value = self.frame.get(key)
        return value if isinstance(value, str) else None

    def __repr__(self) -> str:
        what = f"{shown(self.id)} {shown(self.type)} from {shown(self.sender)}"
        return f"<{type(self).__name__} {what}, attempt {self.attempt}>"


class Reply(Facts):
    """An answer to a question. Answers are acknowledged already: whoever asked has them."""

    __slots__ = ("fault",)

    def __init__(self, frame: Frame, fault: str | None = None) -> None:
        super().__init__(frame)
        #: Why it cannot be read; then `payload` raises that.
        self.fault = (
            Unreadable(f"the answer {shown(self.id)} of {shown(self.sender)} cannot be read: {fault}") if fault else None
        )

    @property
    def payload(self) -> Any:
        """The value that was answered, as `json.loads` has it. Raises `Unreadable` where Python does not hold it."""
        if self.fault:
            raise self.fault
        return self.frame.get("payload")


class Message(Facts):
    """A delivery. Something must become of it: `ack`, `fail`, `dead` or `release`; until then its deadline is moved by
    itself. One that is forgotten fails."""

    __slots__ = ("__weakref__", "_is_settled", "_settler", "connection", "tag")

    def __init__(self, settler: Settler, frame: Frame, tag: int, connection: int) -> None:
        # First: what follows may raise, and then `__del__` looks at it.
        self._is_settled = True
        super().__init__(frame)
        self._settler = settler
        #: By this the broker knows the delivery, for as long as the connection lives.
        self.tag = tag
        #: Which connection the tag belongs to, as the agent counts them.
        self.connection = connection
        self._is_settled = False

    @property
    def is_settled(self) -> bool:
        """Whether something became of it here."""
        return self._is_settled

    def settle(self) -> bool:
        """For the agent: something became of it, and nothing else can any more. False where something had before."""
        was_settled, self._is_settled = self._is_settled, True
        return not was_settled

    async def ack(self, *, confirm: bool = True) -> bool:
        """Handled. True once it is committed; false where it is not known to be, because the connection fell or the
        deadline had passed: then the broker delivers it again, perhaps to another instance. Where it comes back to this
        agent object, it is acknowledged without being handed out again.

        With ``confirm=False`` it returns at once, and the ack is written with others."""
        if not confirm:
            self._settler.ack(self, None)
            return True
        self._settler.check_ours()
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._settler.ack(self, lambda is_committed: None if told.done() else told.set_result(is_committed))
        return await told

    async def fail(self, reason: str, delay: Duration | None = None) -> bool:
        """Failed: pushed again after `delay`, or after the broker's growing one; a dead letter after the last attempt. False
        if the connection it came by has fallen, which counts as a failure too."""
        return self._settler.nack(self, "fail", delay_ms=milliseconds("delay", delay), reason=reason)

    async def dead(self, reason: str) -> bool:
        """Can never be handled: a dead letter at once. False if the connection it came by has fallen: then it comes again."""
        return self._settler.nack(self, "dead", delay_ms=None, reason=reason)

    async def release(self, delay: Duration | None = None) -> bool:
        """Not handled, and nobody's fault: pushed again, not before `delay`."""
        return self._settler.nack(self, "release", delay_ms=milliseconds("delay", delay), reason=None)

    async def reply(
        self,
        payload: Any = None,
        *,
        headers: dict[str, Any] | None = None,
        ttl: Duration | None = ANSWER_TTL_SECONDS,
    ) -> str:
        """Answers it: whoever sent it by `Agent.request` gets this. Returns the answer's id once it is committed; the message
        is still to be acknowledged, which a handler does by returning. A message has one answer: a second one, at another
        attempt perhaps, is the first one again. After `ttl` it is not delivered any more.

        To answer later, perhaps from another process, keep `sender`, `correlation_id` and `reply_to`, and send a
        message of type response ``to`` the one with the others as ``correlation_id`` and ``to_instance``."""
        priority = min(max(self.priority, 1), 10)
        return await self._settler.reply(self, payload=payload, headers=headers, priority=priority, ttl=ttl)

    def __del__(self) -> None:
        if not self._is_settled:
            self._settler.dropped(self.id, self.tag, self.connection)


def milliseconds(what: str, duration: Duration | None) -> int | None:
    """As the protocol has it."""
    if duration is None:
        return None
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    # Also where it is no number that can be compared, or none at all.
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= DURATION_MS_MAX / 1000:
        raise Invalid(f"{what} must be a number of seconds between 0 and a week, or a timedelta, not {shown(repr(duration))}")
    return round(seconds * 1000)


def _instant(text: str) -> datetime:
    # Before 3.11 it takes neither a Z nor any number of digits.
    head, _, fraction = text.removesuffix("Z").partition(".")
    try:
        return datetime.fromisoformat(f"{head}.{fraction[:6]:0<6}+00:00")
    except ValueError:
        return _nearest(text)


def _nearest(text: str) -> datetime:
    """Postgres has times that Python has not: before the year 1, after 9999, and for ever."""
    if text.startswith("-") or text.endswith("BC"):
        return datetime.min.replace(tzinfo=timezone.utc)
    year = text.removeprefix("+").partition("-")[0]
    if text.startswith("infinity") or (year.isdecimal() and len(year) > 4):
        return datetime.max.replace(tzinfo=timezone.utc)
    raise Unreadable("the message's created_at is no time")


def shown(text: str) -> str:
    """Somebody else's words within a line of ours: nothing that moves a cursor or begins a line, and not too much."""
    return (text if text.isprintable() else ascii(text)[1:-1])[:SHOWN_MAX]


def reason_of(fault: BaseException) -> str:
    """As a reason of a failure: what happened, and what kind of thing it was."""
    try:
        text = str(fault)
    except Exception:
        # An exception that cannot be told is one all the same.
        text = ""
    if text and isinstance(fault, (Retry, Dead, PostbellError)):
        return text
    return f"{type(fault).__name__}: {text}" if text else type(fault).__name__

"""One session with a broker, as a machine of bytes: no IO; the time is given.

Bytes that arrive go in by `receive`, bytes to be written come out by `take_output`, and `wake_at` says when `tick` has
something to do though nothing arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .errors import PostbellError, Refused, Unreachable, Unreadable
from .frames import CutLine, Frame, LineSplitter, Welcome, decode, encode, refusal, seconds
from .limits import ACK_TAGS_MAX, HEARTBEATS_MISSED_MAX, LINE_BYTES_MAX, REASON_BYTES_MAX, RETRY_SECONDS_MAX
from .pending import Answer, Held, Pending
from .repeats import Repeats
from .salvage import first_unread, salvage

logger = logging.getLogger("postbell")


# One for each message: a tuple costs a third of a frozen dataclass.
class Pushed(NamedTuple):
    """A delivery, as the broker's frame has it."""

    tag: int
    frame: Frame
    #: Why it cannot be handed out: then the frame has what could be read.
    fault: str | None = None


@dataclass(frozen=True)
class Draining:
    """The broker stops: finish, and come again within so many seconds."""

    within_seconds: float


@dataclass(frozen=True)
class Stray:
    """A refusal that nobody waited for."""

    error: Refused


#: Told what the broker answered to acks, by the keys they were given with.
Acked = Callable[["list[str]", "Frame | PostbellError"], None]

_USUAL_MS_MAX = 1_000_000_000

#: Brokers count tags from 1, and ignore one that is not in flight.
NO_TAG = 0

_ANSWERS = {
    "sent",
    "acked",
    "subscribed",
    "unsubscribed",
    "lock",
    "released",
    "dead_letters",
    "redriven",
    "purged",
}

Event = Pushed | Draining | Stray


class Session:
    """See the module. A fatal `error`, a broker that is silent and a line without an end are raised; a line that cannot be
    read is nobody's but its own."""

    def __init__(
        self, welcome: Welcome, pending: Pending, now: float, address: str = "its address", acked: Acked | None = None
    ) -> None:
        self.welcome = welcome
        self._pending = pending
        self._address = address
        self._acked = acked
        self._lines = LineSplitter()
        self._held = Held()
        self._out = bytearray()
        # Acks that gather until the next write become one line: tags, and what `acked` is told of them.
        self._ack_tags: list[int] = []
        self._ack_keys: list[str] = []
        self._heard_at = self._wrote_at = now
        self._repeats = Repeats(logger)
        self._pings = self._pongs = 0
        #: Whether `begun` was said once: from then on it is said of each delivery.
        self.says_begun = False
        self._begun_is_known = True
        self._begun_tags: list[int] = []
        #: The deadline of the last delivery.
        self.deadline_seconds = 0.0
        self.draining: Draining | None = None

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Takes bytes that arrived; returns what is not for this machine alone."""
        self._heard_at = now
        return [event for line in self._lines.feed(data) if (event := self._line(line, now))]

    def _line(self, line: bytes, now: float) -> Event | None:
        try:
            if type(line) is CutLine:
                raise ValueError
            frame = decode(line)
        except (ValueError, RecursionError):
            return self._salvaged(line, now)
        return self._take(frame, None, now)

    def _salvaged(self, line: bytes, now: float) -> Event | None:
        """One that Python does not hold as a whole: what it was about is told by the fields that can be read."""
        frame, reason = salvage(line)
        if type(line) is CutLine:
            reason = f"the line has more than {LINE_BYTES_MAX} bytes"
        reason = reason or first_unread(frame)
        if not isinstance(frame.get("op"), str):
            self._passed_over(reason or 'it is not a JSON object with an "op"')
            return None
        return self._take(frame, reason, now)

    def _take(self, frame: Frame, fault: str | None, now: float) -> Event | None:
        match frame["op"]:
            case "msg":
                return self._pushed(frame, fault, now)
            case "error":
                return self._refused(frame, now)
            case "ping":
                self.say({"op": "pong"})
            case "pong":
                self._pongs += 1
            case "drain":
                self.draining = Draining(min(seconds(frame, "after_ms") or 0.0, RETRY_SECONDS_MAX))
                return self.draining
            case op if op in _ANSWERS:
                if fault and op != "dead_letters":
                    self._pending.refused(frame.get("ref"), Unreadable(f"the broker's answer ({op}) cannot be read: {fault}"))
                else:
                    self._pending.answered(frame)
            case _:
                # An op of a newer broker's.
                pass
        return None

    def _pushed(self, frame: Frame, fault: str | None, now: float) -> Pushed | None:
        tag, deadline_ms = frame.get("tag"), frame.get("deadline_ms")
        # The usual at once: this is done for each message.
        is_usual = type(deadline_ms) is int and 0 < deadline_ms < _USUAL_MS_MAX
        deadline = deadline_ms / 1000 if is_usual else seconds(frame, "deadline_ms")  # type: ignore[operator]
        if type(tag) is not int:
            # Only the delivery's deadline will tell the broker: nothing else names a delivery without a tag.
            self._passed_over(fault or "a delivery has no tag")
            return None
        if not deadline:
            fault = fault or "deadline_ms is no time"
        self.deadline_seconds = deadline or self.deadline_seconds
        self._held.insert(now, tag, deadline or self.welcome.heartbeat_seconds)
        return Pushed(tag, frame, fault)

    def _passed_over(self, reason: str) -> None:
        self._repeats.warning(reason, "a line of the broker's was passed over: %s", reason)

    def _refused(self, frame: Frame, now: float) -> Stray | None:
        error, reference = refusal(frame), frame.get("ref")
        # Nothing was stored, so it is safe to send again.
        until = now + (error.retry_seconds or 0)
        if error.code == "slow_down" and self._pending.slow_down(reference, until):
            return None
        known = self._pending.refused(reference, error)
        if frame.get("fatal") is True:
            raise error
        if error.code == "unknown_op" and self.says_begun and "begun" in error.message:
            # An older broker's: it blames the oldest.
            self._begun_is_known = False
            return None
        return None if known else Stray(error)

    def say(self, frame: Frame) -> None:
        """To be written as it is."""
        self._out += encode(frame)

    def send(self, frame: Frame, answer: Answer) -> str:
        """Sends a message, and returns its ref. The message may wait behind others that were told to slow down."""
        reference, line = self._pending.send(frame, answer, is_connected=True)
        self._out += line or b""
        return reference

    def ask(self, frame: Frame, answer: Answer) -> None:
        """A request that is answered once, or interrupted."""
        self._out += self._pending.ask(frame, answer)

    def begun(self, tags: list[int]) -> None:
        """These are in somebody's hands: where the connection falls, they are to blame, and not what only waits here."""
        self.says_begun = True
        if self._begun_is_known:
            self._begun_tags += tags

    def goodbye(self, tags: list[int]) -> None:
        """The last words: what is in somebody's hands, and `bye`. A delivery may be on its way here, and would be blamed for
        the end otherwise."""
        self._begun_tags.clear()
        self.begun(tags or [NO_TAG])
        self._say_begun()
        # An ack that came while the last write went out; the broker reads nothing behind `bye`.
        self._say_acks()
        self.say({"op": "bye"})

    def _say_begun(self) -> None:
        if self._begun_tags:
            tags, self._begun_tags = self._begun_tags, []
            self.say({"op": "begun", "tag": tags[0]} if len(tags) == 1 else {"op": "begun", "tags": tags})

    def ack(self, tag: int, key: str) -> None:
        """Handled: with those that are acknowledged by the same write. `acked` is told what became of them, by these keys; a
        refusal does not say of which of them it is."""
        if self._held.remove(tag):
            self._ack_tags.append(tag)
            self._ack_keys.append(key)

    def ack_alone(self, tag: int, answer: Answer) -> None:
        """Handled, and answered for itself."""
        if self._held.remove(tag):
            self.ask({"op": "ack", "tag": tag}, answer)

    def _tell_acked(self, keys: list[str], result: Frame | PostbellError) -> None:
        if self._acked:
            self._acked(keys, result)

    def nack(self, tag: int, outcome: str, *, delay_ms: int | None = None, reason: str | None = None) -> None:
        """Not handled."""
        if self._held.remove(tag):
            text = None if reason is None else _cut(reason)
            self.say({"op": "nack", "tag": tag, "outcome": outcome, "delay_ms": delay_ms, "reason": text})

    def take_output(self, now: float) -> bytes:
        """Takes the bytes that are to be written now."""
        for line in self._pending.take_due(now):
            self._out += line
        self._say_begun()
        self._say_acks()
        if not self._out:
            return b""
        out, self._out = bytes(self._out), bytearray()
        self._wrote_at = now
        return out

    def _say_acks(self) -> None:
        while self._ack_tags:
            tags, self._ack_tags = self._ack_tags[:ACK_TAGS_MAX], self._ack_tags[ACK_TAGS_MAX:]
            keys, self._ack_keys = self._ack_keys[:ACK_TAGS_MAX], self._ack_keys[ACK_TAGS_MAX:]
            self.ask({"op": "ack", "tags": tags}, partial(self._tell_acked, keys))

    def tick(self, now: float) -> None:
        """Extends what is held, and says that we live; raises `Unreachable` if the broker does not."""
        if now >= self._silent_at:
            raise Unreachable(self._address, "it was silent for two heartbeats")
        for tag, deadline in self._held.take_due(now):
            self.say({"op": "extend", "tag": tag, "ms": round(deadline * 1000)})
        if now >= self._ping_at:
            self.ping()

    def ping(self) -> int:
        """Asks whether the broker lives; gives back which ping that is."""
        self.say({"op": "ping"})
        self._pings += 1
        return self._pings

    def is_heard(self, ping: int) -> bool:
        """The broker has read all that was written before that ping."""
        return self._pongs >= ping

    @property
    def wake_at(self) -> float:
        """When `tick` or `take_output` has something to do."""
        times = [self._silent_at, self._ping_at, self._held.next_due(), self._pending.resume_at]
        return min(time for time in times if time is not None)

    @property
    def _silent_at(self) -> float:
        return self._heard_at + self.welcome.heartbeat_seconds * HEARTBEATS_MISSED_MAX

    @property
    def _ping_at(self) -> float:
        return self._wrote_at + self.welcome.heartbeat_seconds / 2

    @property
    def holds(self) -> bool:
        """Deliveries are in our hands."""
        return len(self._held) > 0

    @property
    def is_drained(self) -> bool:
        """The broker asked us to leave, and nothing keeps us."""
        return self.draining is not None and not self._held and not self._ack_tags and self._pending.is_empty


def _cut(reason: object) -> str:
    # Not within a character.
    return str(reason).encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="ignore")

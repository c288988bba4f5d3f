"""One session with a broker, as a machine of bytes: no IO; the time is given.

What arrives goes in by `receive`, what is to be written comes out by `take_output`, and `wake_at` says when `tick` has
something to do though nothing arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .errors import NoBroker, PostbellError, Refused, Unreachable
from .frames import Frame, LineSplitter, Welcome, decode, encode, refusal
from .limits import ACK_TAGS_MAX, HEARTBEATS_MISSED_MAX, REASON_BYTES_MAX
from .pending import Answer, Held, Pending


# One for each message: a tuple costs a third of a frozen dataclass.
class Pushed(NamedTuple):
    """A delivery, as the broker's frame has it."""

    tag: int
    frame: Frame


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
    """See the module. A fatal `error` and a peer that is no broker are raised."""

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
        self.draining: Draining | None = None

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What arrived, as far as it is not for this machine alone."""
        self._heard_at = now
        return [event for line in self._lines.feed(data) if (event := self._take(decode(line), now))]

    def _take(self, frame: Frame, now: float) -> Event | None:
        match frame["op"]:
            case "msg":
                return self._pushed(frame, now)
            case "error":
                return self._refused(frame, now)
            case "ping":
                self.say({"op": "pong"})
            case "drain":
                self.draining = Draining(_milliseconds(frame, "after_ms"))
                return self.draining
            case op if op in _ANSWERS:
                self._pending.answered(frame)
            case _:
                # A pong, or an op of a newer broker's.
                pass
        return None

    def _pushed(self, frame: Frame, now: float) -> Pushed:
        tag, deadline_ms = frame.get("tag"), frame.get("deadline_ms")
        if not isinstance(tag, int) or not isinstance(deadline_ms, (int, float)):
            raise NoBroker("a message has no tag, or no deadline_ms")
        self._held.insert(now, tag, deadline_ms / 1000)
        return Pushed(tag, frame)

    def _refused(self, frame: Frame, now: float) -> Stray | None:
        error, reference = refusal(frame), frame.get("ref")
        # Nothing was stored, so it is safe to send again.
        until = now + (error.retry_seconds or 0)
        if error.code == "slow_down" and self._pending.slow_down(reference, until):
            return None
        known = self._pending.refused(reference, error)
        if frame.get("fatal"):
            raise error
        return None if known else Stray(error)

    def say(self, frame: Frame) -> None:
        """To be written as it is."""
        self._out += encode(frame)

    def send(self, frame: Frame, answer: Answer) -> str:
        """A message; gives back its ref. It may wait behind others that were told to slow down."""
        reference, line = self._pending.send(frame, answer, is_connected=True)
        self._out += line or b""
        return reference

    def ask(self, frame: Frame, answer: Answer) -> None:
        """A request that is answered once, or interrupted."""
        self._out += self._pending.ask(frame, answer)

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
        """What is to be written now."""
        for line in self._pending.take_due(now):
            self._out += line
        while self._ack_tags:
            tags, self._ack_tags = self._ack_tags[:ACK_TAGS_MAX], self._ack_tags[ACK_TAGS_MAX:]
            keys, self._ack_keys = self._ack_keys[:ACK_TAGS_MAX], self._ack_keys[ACK_TAGS_MAX:]
            self.ask({"op": "ack", "tags": tags}, partial(self._tell_acked, keys))
        if not self._out:
            return b""
        out, self._out = bytes(self._out), bytearray()
        self._wrote_at = now
        return out

    def tick(self, now: float) -> None:
        """Extends what is held, and says that we live; raises `Unreachable` if the broker does not."""
        if now >= self._silent_at:
            raise Unreachable(self._address, "it was silent for two heartbeats")
        for tag, seconds in self._held.take_due(now):
            self.say({"op": "extend", "tag": tag, "ms": round(seconds * 1000)})
        if now >= self._ping_at:
            self.say({"op": "ping"})

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
    def is_drained(self) -> bool:
        """The broker asked us to leave, and nothing keeps us."""
        return self.draining is not None and not self._held and not self._ack_tags and self._pending.is_empty


def _milliseconds(frame: Frame, key: str) -> float:
    value = frame.get(key)
    if not isinstance(value, (int, float)):
        raise NoBroker(f"{frame['op']} has no {key}")
    return value / 1000


def _cut(reason: str) -> str:
    # Not within a character.
    return reason.encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="ignore")

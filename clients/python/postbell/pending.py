"""Requests that are not answered yet, and the deliveries that are held: no IO; the time is given."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable
from dataclasses import dataclass

from .errors import Interrupted, PostbellError
from .frames import Frame, encode
from .limits import RESUMED_MAX

EXTEND_SECONDS_MIN = 0.01

#: Told what the broker answered, or why it did not.
Answer = Callable[["Frame | PostbellError"], None]


@dataclass(frozen=True)
class _Send:
    line: bytes
    answer: Answer
    #: With a key of its own, it is the same message when it is sent again.
    is_repeatable: bool


class Pending:
    """Requests by their ``ref``. Outlives the connections."""

    def __init__(self) -> None:
        self._last = 0
        self._sends: dict[int, _Send] = {}
        self._asks: dict[int, Answer] = {}
        # Sends that are not under way, in their order: refused by slow_down, or not written yet, and all that came
        # after the first of them.
        self._held: list[int] = []
        self._resume_at: float | None = None

    def send(self, frame: Frame, answer: Answer, *, is_connected: bool) -> tuple[str, bytes | None]:
        """Takes a send; gives back its ref, and the line to write if it need not wait."""
        self._last += 1
        line = encode(frame | {"ref": str(self._last)})
        self._sends[self._last] = _Send(line, answer, frame.get("dedupe_key") is not None)
        if is_connected and not self._held:
            return str(self._last), line
        self._held.append(self._last)
        return str(self._last), None

    def ask(self, frame: Frame, answer: Answer) -> bytes:
        """Takes a request that means nothing on another connection; gives back its line."""
        self._last += 1
        # First: what cannot be written is nobody's answer to wait for.
        line = encode(frame | {"ref": str(self._last)})
        self._asks[self._last] = answer
        return line

    def answered(self, frame: Frame) -> None:
        """Tells the caller that asked, if it still waits."""
        if answer := self._pop(frame.get("ref")):
            answer(frame)

    def refused(self, reference: object, error: PostbellError) -> bool:
        """True if somebody was waiting for this refusal."""
        answer = self._pop(reference)
        if answer:
            answer(error)
        return answer is not None

    def slow_down(self, reference: object, until: float) -> bool:
        """The broker takes this send no sooner than ``until``; false if it is none of ours."""
        number = _number(reference)
        if number not in self._sends:
            return False
        if number not in self._held:
            bisect.insort(self._held, number)
        self._resume_at = max(self._resume_at or until, until)
        return True

    def forget(self, reference: str) -> None:
        """The caller gave up: a request that was not written yet never is."""
        self._pop(reference)

    def take_due(self, now: float) -> list[bytes]:
        """The sends that were held back and may go now; in a bounded number, so that little is refused again."""
        if not self._held or (self._resume_at is not None and self._resume_at > now):
            return []
        self._resume_at = None
        room = max(0, RESUMED_MAX - (len(self._sends) - len(self._held)))
        due, self._held = self._held[:room], self._held[room:]
        return [self._sends[number].line for number in due]

    @property
    def resume_at(self) -> float | None:
        """When held sends may go, if that is a matter of time."""
        return self._resume_at

    def interrupted(self) -> None:
        """The connection fell. Sends that are held back or have a dedupe key wait for the next connection; all other requests
        raise `Interrupted`."""
        fault = Interrupted()
        asks, self._asks = self._asks, {}
        for answer in asks.values():
            answer(fault)
        held = set(self._held)
        for number, send in list(self._sends.items()):
            if number not in held and not send.is_repeatable:
                del self._sends[number]
                send.answer(fault)
        self._held = sorted(self._sends)

    def give_up(self, error: PostbellError) -> None:
        """There will be no further connection."""
        answers = [*self._asks.values(), *(send.answer for send in self._sends.values())]
        self._asks, self._sends, self._held = {}, {}, []
        for answer in answers:
            answer(error)

    @property
    def is_empty(self) -> bool:
        """Nobody waits for anything."""
        return not (self._sends or self._asks)

    def _pop(self, reference: object) -> Answer | None:
        number = _number(reference)
        if number in self._held:
            self._held.remove(number)
        if send := self._sends.pop(number, None):
            return send.answer
        return self._asks.pop(number, None)


def _number(reference: object) -> int:
    return int(reference) if isinstance(reference, str) and len(reference) < 20 and reference.isdecimal() else -1


class Held:
    """The deliveries of one connection that the agent holds, and when their deadlines must be moved."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}
        # Deliveries that were settled meanwhile are passed over, and cleared away when they are many.
        self._due: list[tuple[float, int]] = []

    def insert(self, now: float, tag: int, deadline: float) -> None:
        """A delivery came: its deadline is moved when half of it has passed."""
        if len(self._due) > 2 * len(self._deadlines) + 64:
            self._due = [(at, held) for at, held in self._due if held in self._deadlines]
            heapq.heapify(self._due)
        self._deadlines[tag] = deadline
        # A deadline of nothing must not be due again at once, for ever.
        heapq.heappush(self._due, (now + max(deadline / 2, EXTEND_SECONDS_MIN), tag))

    def remove(self, tag: int) -> bool:
        """False if it was not there."""
        return self._deadlines.pop(tag, None) is not None

    def take_due(self, now: float) -> list[tuple[int, float]]:
        """The tags to extend now, each by how many seconds."""
        extends = []
        while self._due and self._due[0][0] <= now:
            _, tag = heapq.heappop(self._due)
            if (deadline := self._deadlines.get(tag)) is not None:
                self.insert(now, tag, deadline)
                extends.append((tag, deadline))
        return extends

    def next_due(self) -> float | None:
        """When `take_due` has something."""
        while self._due and self._due[0][1] not in self._deadlines:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def __len__(self) -> int:
        return len(self._deadlines)

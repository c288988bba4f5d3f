"""Dead letters: an agent's own; with the role `orchestrator` those of any inbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .errors import Invalid, Unreadable
from .frames import Frame
from .limits import DEAD_IDS_MAX
from .salvage import Unread

Ask = Callable[[Frame], Awaitable[Frame]]


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be handled, and why."""

    #: The name of it for `redrive` and `purge`. The same message may be dead in other inboxes.
    id: int
    message_id: str
    inbox: str
    sender: str
    type: str
    priority: int
    attempts: int
    reason: str | None
    #: Whole, or `None` where it is over 4 KiB, or nothing that Python holds.
    payload: Any
    #: Why the payload cannot be read here.
    fault: str | None = None


@dataclass(frozen=True)
class DeadLetters:
    """A page; `more` says that there are more after its last one."""

    letters: list[DeadLetter]
    more: bool


@dataclass(frozen=True)
class LettersRefused:
    """Dead letters that stay dead, since the table of messages does not take the change."""

    count: int
    #: Which is the first, and why.
    reason: str


class Administered(int):
    """How many dead letters were redriven or purged."""

    #: The letters of the chosen inbox that the table refused. The refusal of letters that were chosen by id is raised.
    refused: LettersRefused | None = None


async def page(ask: Ask, inbox: str | None, after: int | None, limit: int | None) -> DeadLetters:
    """See `Agent.dead_letters`."""
    answer = await ask({"op": "dead", "inbox": inbox, "after": after, "limit": limit})
    letters = answer.get("letters")
    if not isinstance(letters, list):
        raise Unreadable("the broker's dead letters cannot be read")
    return DeadLetters([_letter(letter) for letter in letters], answer.get("more") is True)


def _letter(frame: Frame) -> DeadLetter:
    try:
        number, priority, attempts = frame["id"], frame["priority"], frame["attempts"]
        message_id, inbox, sender, kind = (str(frame[name]) for name in ("message_id", "inbox", "from", "type"))
        reason, payload = frame.get("reason"), frame.get("payload")
    except (KeyError, TypeError) as fault:
        raise Unreadable(f"a dead letter of the broker's has no {fault.args[0]}") from fault
    if not (type(number) is type(priority) is type(attempts) is int):
        raise Unreadable("a dead letter of the broker's has an id, a priority or attempts that are no whole number")
    return DeadLetter(
        id=number,
        message_id=message_id,
        inbox=inbox,
        sender=sender,
        type=kind,
        priority=priority,
        attempts=attempts,
        reason=reason if isinstance(reason, str) else None,
        payload=None if isinstance(payload, Unread) else payload,
        fault=payload.reason if isinstance(payload, Unread) else None,
    )


async def settle(ask: Ask, op: str, ids: list[int] | None, inbox: str | None) -> Administered:
    """See `Agent.redrive`. Many go in several transactions: what was done before an error stays done."""
    if (ids is None) == (inbox is None):
        raise Invalid("say which dead letters: ids=, or inbox= for all of one")
    count = 0
    if ids is not None:
        for start in range(0, len(ids), DEAD_IDS_MAX):
            count += _count(await ask({"op": op, "ids": ids[start : start + DEAD_IDS_MAX]}))
        return Administered(count)
    after, more = None, True
    refused: LettersRefused | None = None
    while more:
        done = await ask({"op": op, "inbox": inbox, "after": after})
        count += _count(done)
        refused = _refused(done, refused)
        # Each begins after the last: what fails at once is not redriven again.
        after, more = done.get("last", after), done.get("more") is True
    administered = Administered(count)
    administered.refused = refused
    return administered


def _refused(answer: Frame, before: LettersRefused | None) -> LettersRefused | None:
    """With those of the requests before. A broker that says it otherwise has not said it."""
    told = answer.get("refused")
    if not isinstance(told, dict) or type(told.get("count")) is not int:
        return before
    if before:
        return LettersRefused(before.count + told["count"], before.reason)
    return LettersRefused(told["count"], str(told.get("reason")))


def _count(answer: Frame) -> int:
    count = answer.get("count")
    if type(count) is not int:
        raise Unreadable("the broker did not say how many dead letters it was")
    return count

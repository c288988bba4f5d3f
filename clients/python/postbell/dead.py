"""Dead letters: an agent's own; with the role `orchestrator` those of any inbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .errors import Invalid
from .frames import Frame
from .limits import DEAD_IDS_MAX

Ask = Callable[[Frame], Awaitable[Frame]]


@dataclass(frozen=True)
class DeadLetter:
    """What could not be handled, and why."""

    #: What `redrive` and `purge` name it by. The same message may be dead in other inboxes.
    id: int
    message_id: str
    inbox: str
    sender: str
    type: str
    priority: int
    attempts: int
    reason: str | None
    #: Whole, or `None` where it is over 4 KiB.
    payload: Any


@dataclass(frozen=True)
class DeadLetters:
    """A page; `more` says that there are more after its last one."""

    letters: list[DeadLetter]
    more: bool


async def page(ask: Ask, inbox: str | None, after: int | None, limit: int | None) -> DeadLetters:
    """See `Agent.dead_letters`."""
    answer = await ask({"op": "dead", "inbox": inbox, "after": after, "limit": limit})
    return DeadLetters([_letter(letter) for letter in answer["letters"]], bool(answer["more"]))


def _letter(frame: Frame) -> DeadLetter:
    return DeadLetter(
        id=int(frame["id"]),
        message_id=str(frame["message_id"]),
        inbox=str(frame["inbox"]),
        sender=str(frame["from"]),
        type=str(frame["type"]),
        priority=int(frame["priority"]),
        attempts=int(frame["attempts"]),
        reason=frame.get("reason"),
        payload=frame.get("payload"),
    )


async def settle(ask: Ask, op: str, ids: list[int] | None, inbox: str | None) -> int:
    """See `Agent.redrive`. Many go in several transactions: what was done before an error stays done."""
    if (ids is None) == (inbox is None):
        raise Invalid("say which dead letters: ids=, or inbox= for all of one")
    count = 0
    if ids is not None:
        for start in range(0, len(ids), DEAD_IDS_MAX):
            count += int((await ask({"op": op, "ids": ids[start : start + DEAD_IDS_MAX]}))["count"])
        return count
    after, more = None, True
    while more:
        done = await ask({"op": op, "inbox": inbox, "after": after})
        count += int(done["count"])
        # Each begins after the last: what fails at once is not redriven again.
        after, more = done.get("last", after), bool(done["more"])
    return count

"""Decides what becomes of the messages in hand when an agent is closed, by what ended the block: no IO."""

from __future__ import annotations

import asyncio

from . import outcomes
from .errors import Closed, Forked, Interrupted, NoBroker, Refused, TimedOut, TlsFailed, Unreachable
from .outcomes import Outcome

#: No message's fault.
_OURS = (Closed, Forked, Interrupted, NoBroker, TimedOut, TlsFailed, Unreachable)


def blame(fault: BaseException | None) -> Outcome:
    """Given back where the agent just leaves; else it counts: the next process would be ended by it as well, for ever."""
    released = Outcome("release", is_meant=True)
    if fault is None or isinstance(fault, (*_OURS, GeneratorExit)):
        return released
    if isinstance(fault, Refused) and (fault.is_final or fault.is_retryable):
        return released
    if isinstance(fault, SystemExit) and not fault.code:
        return released
    if isinstance(fault, asyncio.CancelledError) and was_cancelled():
        return released
    return outcomes.of(fault)


def was_cancelled() -> bool:
    """Whether somebody cancelled this task, rather than what it waited for. Before 3.11 nobody knows."""
    try:
        cancelling = getattr(asyncio.current_task(), "cancelling", None)
    except RuntimeError:
        return False
    return cancelling is not None and cancelling() > 0

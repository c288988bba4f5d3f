"""Decides what becomes of a message, by what left its handler: no IO."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from .errors import Unreadable
from .message import Dead, Duration, Release, Retry, reason_of

#: The exceptions that end the process.
LEAVING = (SystemExit, KeyboardInterrupt)


class Outcome(NamedTuple):
    """The outcome that the broker is told."""

    #: ack, fail, dead or release
    what: str
    reason: str | None = None
    delay: Duration | None = None
    #: The exception by which the process is to be left.
    leaving: BaseException | None = None
    #: Whether it was raised on purpose, and needs no traceback.
    is_meant: bool = False


def of(fault: BaseException | None, *, is_interrupted: bool = False) -> Outcome:
    """`None` is a handler that returned. Whatever else it is, it is an outcome."""
    if fault is None:
        return Outcome("ack", is_meant=True)
    try:
        return _of(fault, is_interrupted)
    except Exception:
        # Such as a `Retry` that was made without its own constructor.
        return Outcome("fail", reason_of(fault))


def _of(fault: BaseException, is_interrupted: bool) -> Outcome:
    leaves = list(_leaves(fault))
    for leaf in leaves:
        if isinstance(leaf, LEAVING):
            return Outcome("fail", f"{reason_of(leaf)}: the handler ended the process", leaving=exit_of(leaf))
    # A task group wraps what its one task raised on purpose.
    match leaves[0] if len(leaves) == 1 else fault:
        case Retry() as retry:
            return Outcome("fail", reason_of(retry.__cause__ or retry), retry.delay, is_meant=True)
        case Dead() as dead:
            return Outcome("dead", reason_of(dead), is_meant=True)
        case Release() as release:
            return Outcome("release", delay=release.delay, is_meant=True)
        case asyncio.CancelledError() if is_interrupted:
            return Outcome("release", is_meant=True)
        case asyncio.CancelledError():
            return Outcome("fail", "CancelledError: something that the handler waited for was cancelled")
        case Unreadable() as unreadable:
            return Outcome("fail", reason_of(unreadable))
    return Outcome("fail", reason_of(fault))


def _leaves(fault: BaseException) -> Iterator[BaseException]:
    """The exceptions within a group, or the one itself. A group is known by its looks: Python has groups since 3.11, and
    libraries had them before."""
    waiting = [fault]
    while waiting:
        fault = waiting.pop()
        within = getattr(fault, "exceptions", None)
        if isinstance(within, tuple) and within and all(isinstance(one, BaseException) for one in within):
            waiting.extend(reversed(within))
        else:
            yield fault


def exit_of(leaving: BaseException) -> BaseException:
    """As it was raised; but the process must not look as if all were well."""
    if isinstance(leaving, SystemExit):
        code = leaving.code
        # A status has eight bits.
        if code is None or (isinstance(code, int) and code & 0xFF == 0):
            return SystemExit(1)
    return leaving

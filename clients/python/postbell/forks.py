"""The connections of a parent, which a forked child must not touch.

The child has copies of the sockets, and gives them up at once, so that the connection ends when the parent ends it. Calls of
the child on the parent's agents raise `Forked`.
"""

from __future__ import annotations

import os
from asyncio import StreamWriter
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """Something that is told, in the child, that it is the parent's."""

    def forked(self) -> None:
        """Must neither wait nor use an event loop."""


#: How many forks lie between the first process and this one.
generation = 0

_inherited: WeakSet[Inherited] = WeakSet()
_writers: WeakSet[StreamWriter] = WeakSet()


def tell(inherited: Inherited) -> None:
    """From now on it is told."""
    _inherited.add(inherited)


def guard(writer: StreamWriter) -> None:
    """A connection that a child gives up."""
    _writers.add(writer)


def _in_child() -> None:
    global generation
    generation += 1
    nothing = os.open(os.devnull, os.O_RDWR)
    for writer in list(_writers):
        # Not closed by its transport: the selector is shared, and the parent's would lose it.
        with suppress(OSError, AttributeError):
            number = writer.get_extra_info("socket").fileno()
            if number >= 0:
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
    _writers.clear()
    for inherited in list(_inherited):
        inherited.forked()
    _inherited.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

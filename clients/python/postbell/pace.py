"""How long to wait before trying again."""

from __future__ import annotations

import random

from .limits import RECONNECT_FIRST_SECONDS, RECONNECT_MAX_SECONDS


class Pace:
    """Growing, jittered waits that never give up. The first one is spread too, so that a crowd that lost the same broker
    does not come back at once."""

    def __init__(self, first: float = RECONNECT_FIRST_SECONDS, most: float = RECONNECT_MAX_SECONDS) -> None:
        self._first = first
        self._most = most
        self._next = first

    def next_wait(self) -> float:
        """Seconds."""
        around = self._next
        self._next = min(around * 2, self._most)
        return spread(around)

    def reset(self) -> None:
        """The attempt worked: the next failure starts from the beginning."""
        self._next = self._first


def spread(seconds: float) -> float:
    """Half of it to one and a half."""
    return seconds * random.uniform(0.5, 1.5)

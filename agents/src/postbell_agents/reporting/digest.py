"""When alerts are told together, and how often anything is told: no IO, the time is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Digest(Generic[T]):
    """Gathers for `seconds` from the first one on, or until `size_max` are there, or until an urgent one comes."""

    seconds: float
    size_max: int
    is_urgent: Callable[[T], bool]
    _items: list[T] = field(default_factory=list)
    _due_at: float | None = None

    def add(self, item: T, now: float) -> None:
        """One more."""
        self._items.append(item)
        due_at = now if self.is_urgent(item) or len(self._items) >= self.size_max else now + self.seconds
        self._due_at = due_at if self._due_at is None else min(self._due_at, due_at)

    @property
    def due_at(self) -> float | None:
        """When they are to be told; None where there are none."""
        return self._due_at

    def take(self, now: float) -> list[T]:
        """At most `size_max`, once they are due; the rest is due at once."""
        if self._due_at is None or now < self._due_at:
            return []
        taken, self._items = self._items[: self.size_max], self._items[self.size_max :]
        self._due_at = now if self._items else None
        return taken

    def __len__(self) -> int:
        return len(self._items)


class Rate:
    """At most `count` in `seconds`: a bucket of so many tokens that fills evenly. 0 is no limit."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._tokens = float(count)
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """How long until the next may be told."""
        if not self._count:
            return 0.0
        self._fill(now)
        return max(0.0, (1 - self._tokens) * self._seconds / self._count)

    def take(self, now: float) -> None:
        """Counts one that was told."""
        if self._count:
            self._fill(now)
            self._tokens -= 1

    def _fill(self, now: float) -> None:
        since = 0.0 if self._at is None else now - self._at
        self._at = now
        self._tokens = min(float(self._count), self._tokens + since * self._count / self._seconds)


def backoff(failures: int, base_seconds: float = 1.0, cap_seconds: float = 60.0) -> float:
    """How long to wait after so many failures in a row."""
    return float(min(cap_seconds, base_seconds * 2 ** min(failures - 1, 16)))

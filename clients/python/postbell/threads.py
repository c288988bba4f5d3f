"""Threads for handlers that block. They are daemons: one that never returns does not keep the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

from . import forks

T = TypeVar("T")


class Threads:
    """At most so many, each made when there is work that no other is free for."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._made = 0
        self._free = 0
        self._generation = forks.generation

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Returns what `call` returns; `call` must not raise."""
        told: asyncio.Future[T] = self._loop.create_future()

        def work() -> None:
            result = call()
            if forks.generation != self._generation:
                # A child that its handler left to go on: the loop is the parent's, and so is the message.
                return
            # The loop may be gone: then nobody waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell, told, result)

        if self._free:
            self._free -= 1
        elif self._made < self._count:
            self._made += 1
            threading.Thread(target=self._turn, name=f"{self._name}-{self._made}", daemon=True).start()
        self._work.put(work)
        return told

    def end(self) -> None:
        """Free threads end now, the others when they are done."""
        for _ in range(self._made):
            self._work.put(None)

    def _tell(self, told: asyncio.Future[T], result: T) -> None:
        self._free += 1
        if not told.done():
            told.set_result(result)

    def _turn(self) -> None:
        while work := self._work.get():
            work()
            if forks.generation != self._generation:
                # The only thread there is: with it the child ends.
                return
            # `work` holds the message.
            del work

"""Whether the event loop goes round: a thread asks it, and tells when it stands still for so long that deadlines pass.

While it stands, no deadline is moved and nothing is acknowledged: the broker gives the message to somebody else, and both
handle it. That cannot be mended from here, so it is said, with the name of what stands in the way.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("postbell")

#: The loop is asked so many times a half deadline.
_LOOKS = 8
_LOOK_SECONDS_MAX = 2.0
#: Where nothing is in hand, nothing can be late; a loop that was left open is noticed.
_IDLE_SECONDS = 60.0


class Watch:
    """Looks on from when it is made until it is ended. `deadline` is that of what is in hand, 0 where nothing is."""

    def __init__(self, agent: str, deadline: Callable[[], float]) -> None:
        self._agent = agent
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        self._over = threading.Event()
        self._wanted = threading.Event()
        # Where it stood, once that was told.
        self._told: str | None = None
        self._seen_at = self._looked_at = time.monotonic()
        self._thread = threading.Thread(target=self._turn, name=f"postbell-watch-{agent}", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Something is in hand."""
        # In the loop: the thread may come to its turn only when what is in hand has let it.
        self._looked_at = time.monotonic()
        if not self._wanted.is_set():
            self._wanted.set()

    def end(self) -> None:
        """Ends the watch. Called in the loop, which therefore stands no longer."""
        self._over.set()
        self._answered.set()
        self._wanted.set()
        self._thread.join()

    def _turn(self) -> None:
        while not self._over.is_set():
            half = self._deadline() / 2
            if half <= 0:
                self._idle()
                continue
            self._answered.clear()
            try:
                self._loop.call_soon_threadsafe(self._answer, half)
            except RuntimeError:
                # The loop is closed.
                return
            left = self._seen_at + half - time.monotonic()
            # A machine that is busy wakes us late, and not only the loop.
            if not self._answered.wait(max(left, half / 2)):
                self._tell(half)
                self._answered.wait()
            self._over.wait(min(half / _LOOKS, _LOOK_SECONDS_MAX))

    def _idle(self) -> None:
        self._wanted.clear()
        while self._deadline() <= 0 and not self._over.is_set():
            if self._loop.is_closed():
                self._over.set()
            elif self._wanted.wait(_IDLE_SECONDS):
                break
        # The loop went round when it took what came.
        self._seen_at = max(self._seen_at, self._looked_at)

    def _answer(self, half: float) -> None:
        now = time.monotonic()
        stood, self._seen_at = now - self._seen_at, now
        told, self._told = self._told, None
        # A call that keeps the interpreter to itself stops this thread too, so the stop is told afterwards.
        if told is not None or stood > half + min(half / 2, _LOOK_SECONDS_MAX):
            where = told or "no one knows where: something kept the interpreter to itself"
            logger.warning(
                "%s: the event loop goes round again, after it stood still for %.1f s (%s); the deadline is %.1f s: %s",
                self._agent,
                stood,
                where,
                2 * half,
                "another process may have been given the same messages" if stood > half else "nothing is lost",
            )
        self._answered.set()

    def _tell(self, half: float) -> None:
        self._told = self._where()
        logger.warning(
            "%s: the event loop has stood still for %.1f s, half of a delivery's deadline, in %s: meanwhile no deadline is "
            "moved, and another process may be given the same message. A handler that blocks or computes must be a `def`, "
            "which runs in a thread, or use `asyncio.to_thread`",
            self._agent,
            half,
            self._told,
        )

    def _where(self) -> str:
        """The handler, and the line."""
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            task = None
        frame = sys._current_frames().get(self._loop_thread)
        line = (
            f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})" if frame else "an unknown line"
        )
        return f"{task.get_name()} at {line}" if task else line

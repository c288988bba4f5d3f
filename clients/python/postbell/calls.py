"""Requests to the broker, as something to wait for: answered, refused, or too late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .errors import PostbellError, Refused, TimedOut, Unreadable
from .frames import Frame
from .limits import SEND_WAIT_SECONDS, SENDS_MAX

if TYPE_CHECKING:
    from .driver import Driver

#: Where the broker does not say when to come again.
SLOW_DOWN_WAIT_SECONDS = 0.05


class Calls:
    """See the module."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._room = asyncio.Semaphore(SENDS_MAX)

    async def send(self, frame: Frame, within: float = SEND_WAIT_SECONDS) -> str:
        """A message; gives back its id once it is committed. Waits while too many others do."""
        async with self._room:
            answer, told = _answer()
            reference = self._driver.send(frame, told)
            try:
                sent = (await _within(within, answer)).get("id")
                if not isinstance(sent, str):
                    raise Unreadable("the broker's answer to the send has no id that can be read")
                return sent
            finally:
                self._driver.pending.forget(reference)

    async def ask(self, frame: Frame, within: float = SEND_WAIT_SECONDS) -> Frame:
        """A request to the broker itself; gives back its answer."""
        return await _within(within, self._asking(frame))

    async def _asking(self, frame: Frame) -> Frame:
        while True:
            await self._driver.connected.wait()
            answer, told = _answer()
            self._driver.ask(frame, told)
            try:
                return await answer
            except Refused as refused:
                if refused.code != "slow_down":
                    raise
                await asyncio.sleep(refused.retry_seconds or SLOW_DOWN_WAIT_SECONDS)


def _answer() -> tuple[asyncio.Future[Frame], Callable[[Frame | PostbellError], None]]:
    answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

    def told(result: Frame | PostbellError) -> None:
        if answer.done():
            return
        if isinstance(result, PostbellError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    return answer, told


async def _within(seconds: float, answer: Awaitable[Frame]) -> Frame:
    try:
        return await asyncio.wait_for(answer, seconds)
    except asyncio.TimeoutError:
        raise TimedOut(seconds) from None

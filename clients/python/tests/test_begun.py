"""The broker is told what a process has in hand: before a handler can end the process, and in its goodbye."""

from __future__ import annotations

import asyncio
import threading
import time
import unittest
from collections.abc import Callable
from typing import Any

from postbell import Agent, Message

from .fake import FACES, KINDS, FakeBroker, drain, fake, handler, msg


class Begun(unittest.TestCase):
    """The message to blame if the process dies is told before its handler can kill the process."""

    def test_of_several_side_by_side_each_is_told_before_its_handler_runs(self) -> None:
        for face in FACES:
            for kind in KINDS:
                told: dict[str, bool] = {}
                together = threading.Event()
                with self.subTest(face=face, kind=kind), fake([msg(n) for n in range(1, 13)]) as broker:

                    def look(message: Any, told: Any = told, broker: Any = broker, together: Any = together) -> None:
                        def begun() -> set[int]:
                            tags: set[int] = set()
                            for frame in list(broker.said[0]):
                                if frame["op"] == "begun":
                                    tags |= set(frame.get("tags") or [frame["tag"]])
                            return tags

                        until = time.monotonic() + 2
                        number = int(message.id[1:])
                        # The first is the oldest, which needs no telling while it is alone.
                        while number not in begun() and number > 1 and time.monotonic() < until:
                            time.sleep(0.005)
                        told[message.id] = number in begun()

                    drain(face, broker.url, handler(kind, look) if kind == "def" else slow(look), concurrency=4)
                    self.assertEqual([message_id for message_id, was in told.items() if not was and message_id != "m1"], [])

    def test_one_at_a_time_says_nothing(self) -> None:
        with fake([msg(n) for n in range(1, 6)]) as broker:
            drain("sync", broker.url, handler("def", lambda _: None))
            last_words(broker)
            self.assertEqual([frame for frame in broker.said[0][:-3] if frame["op"] == "begun"], [])

    def test_leaving_in_order_says_that_nothing_is_in_hand(self) -> None:
        async def leave(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                async for message in agent.messages():
                    await message.ack()
                    return

        with fake([msg(1)]) as broker:
            asyncio.run(leave(broker.url))
            self.assertEqual(last_words(broker), [{"op": "begun", "tag": 0}, {"op": "bye"}])

    def test_leaving_a_broker_that_stops_says_that_nothing_is_in_hand(self) -> None:
        async def leave(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                async for message in agent.messages():
                    await message.ack()
                    await asyncio.to_thread(last_words, broker)
                    return

        with fake([msg(1), b'{"op":"drain","after_ms":0}']) as broker:
            asyncio.run(leave(broker.url))
            self.assertEqual(last_words(broker), [{"op": "begun", "tag": 0}, {"op": "bye"}])

    def test_leaving_says_what_is_in_hand(self) -> None:
        async def leave(url: str, count: int) -> None:
            async with Agent("a", url=url, token="t") as agent:
                driver, messages = agent._driver, agent.messages()
                held = [await anext(messages) for _ in range(count)]
                assert driver is not None
                await driver.close()
                self.assertEqual([message.is_settled for message in held], [False] * count)

        for count, begun in ((1, {"op": "begun", "tag": 1}), (2, {"op": "begun", "tags": [1, 2]})):
            with self.subTest(count), fake([msg(1), msg(2), msg(3)]) as broker:
                asyncio.run(leave(broker.url, count))
                self.assertEqual(last_words(broker), [begun, {"op": "bye"}], "and not what waits unread")

    def test_whoever_holds_several_says_which(self) -> None:
        async def hold(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                messages = agent.messages(window=10)
                held = [await anext(messages) for _ in range(3)]
                for message in held:
                    await message.ack(confirm=False)

        with fake([msg(n) for n in range(1, 6)]) as broker:
            asyncio.run(hold(broker.url))
            last_words(broker)
            named = [frame for frame in broker.said[0][:-3] if frame["op"] == "begun"]
            begun = [tag for frame in named for tag in frame.get("tags") or [frame["tag"]]]
            self.assertEqual(begun, [1, 2, 3], "and not those that wait unread")

    def test_an_older_broker_is_not_told_again_and_nothing_is_logged(self) -> None:
        async def hold(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                messages = agent.messages(window=10)
                held = [await anext(messages) for _ in range(2)]
                await agent.send(to="b", payload=1)
                held.append(await anext(messages))
                for message in held:
                    await message.ack(confirm=False)

        with fake([msg(1), msg(2), msg(3)], is_old=True) as broker, self.assertNoLogs("postbell", "WARNING"):
            asyncio.run(hold(broker.url))
            self.assertEqual(len([frame for frame in broker.said[0] if frame["op"] == "begun"]), 1)


def last_words(broker: FakeBroker) -> list[dict[str, Any]]:
    """The last lines of the first connection."""
    broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
    return broker.said[0][-3:-1]


def slow(look: Callable[[Any], None]) -> Callable[[Message], Any]:
    async def handle(message: Message) -> None:
        await asyncio.to_thread(look, message)

    return handle

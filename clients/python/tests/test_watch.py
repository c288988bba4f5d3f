"""A handler that keeps the event loop to itself is named, before the deadline has passed."""

from __future__ import annotations

import asyncio
import threading
import time
import unittest
from collections.abc import Callable
from typing import Any

from postbell import Agent, Message, SyncMessage

from .fake import FACES, drain, fake, handler, msg
from .mesh import ACK_DEADLINE_SECONDS, mesh, sender

#: Milliseconds.
DEADLINE = 1_000


def sleeps(seconds: float) -> Callable[[Any], None]:
    return lambda message: time.sleep(seconds)


class Blocked(unittest.TestCase):
    def test_half_a_deadline_is_told_with_the_handlers_name_and_the_line(self) -> None:
        async def stubborn(message: Message) -> None:
            time.sleep(0.9)  # noqa: ASYNC251 - that is what must not be done

        for face in FACES:
            with self.subTest(face), fake([msg(1, deadline_ms=DEADLINE)]) as broker:
                with self.assertLogs("postbell", "WARNING") as log:
                    drain(face, broker.url, stubborn)
                first, *_ = log.output
                self.assertRegex(
                    first, r"stood still for 0\.5 s, half .* in the handler .*stubborn at test_watch\.py:\d+ \(stubborn\)"
                )
                self.assertRegex("".join(log.output), r"goes round again, after it stood still for (0\.[89]|1\.\d) s")

    def test_longer_than_the_deadline_is_told_while_it_lasts(self) -> None:
        async def stubborn(message: Message) -> None:
            with self.assertLogs("postbell", "WARNING") as log:
                time.sleep(1.5)  # noqa: ASYNC251
            told.extend(log.output)

        told: list[str] = []
        with fake([msg(1, deadline_ms=DEADLINE)]) as broker:
            drain("async", broker.url, stubborn)
        self.assertIn("stubborn", told[0])
        self.assertIn("must be a `def`", told[0])

    def test_a_loop_that_a_scripts_own_code_blocks_is_told_too(self) -> None:
        async def body(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                async for message in agent.messages():
                    time.sleep(0.8)  # noqa: ASYNC251 - that is what must not be done
                    await message.ack()
                    return

        with fake([msg(1, deadline_ms=DEADLINE)]) as broker, self.assertLogs("postbell", "WARNING") as log:
            asyncio.run(body(broker.url))
        self.assertRegex(log.output[0], r"at test_watch\.py:\d+ \(body\)")

    def test_a_handler_in_a_thread_may_take_its_time(self) -> None:
        for face in FACES:
            with self.subTest(face), fake([msg(1, deadline_ms=DEADLINE)]) as broker, self.assertNoLogs("postbell", "WARNING"):
                drain(face, broker.url, handler("def", sleeps(1.5)))

    def test_what_keeps_the_whole_interpreter_is_told_afterwards(self) -> None:
        async def stubborn(message: Message) -> None:
            # One instruction: no other thread runs meanwhile.
            number, until = 3, time.monotonic() + 1.5
            while time.monotonic() < until:
                number = pow(3, 2_500_000)
            assert number

        with fake([msg(1, deadline_ms=DEADLINE)]) as broker, self.assertLogs("postbell", "WARNING") as log:
            drain("async", broker.url, stubborn)
        self.assertIn("stood still", log.output[0])


class Twice(unittest.IsolatedAsyncioTestCase):
    async def test_what_two_processes_handle_is_in_a_log(self) -> None:
        who, attempts = mesh().agent("stubborn"), []
        async with sender().agent() as peer, who.agent(window=1) as agent:
            await peer.send(to=who.name, payload=1)
            # The second agent has a thread of its own, as a second process has.
            second = who.sync_agent(window=1)
            came = threading.Event()

            @second.on()
            def take(message: SyncMessage) -> None:
                attempts.append(message.attempt)
                came.set()

            other = threading.Thread(target=lambda: second.run(report=False))

            @agent.on()
            async def stubborn(message: Message) -> None:
                attempts.append(message.attempt)
                second.connect()
                other.start()
                came.wait(5 * ACK_DEADLINE_SECONDS)

            with self.assertLogs("postbell", "WARNING") as log:
                await agent.drain(idle=1, failures_ok=True)
            second.stop()
            await asyncio.to_thread(other.join)
            second.close()
        self.assertEqual(attempts, [1, 2])
        self.assertIn("stubborn", log.output[0])
        self.assertIn("another process may have been given the same messages", "".join(log.output))

"""Handlers: what they return, what they raise, side by side, and until when."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import unittest
from collections.abc import Callable
from unittest.mock import patch

from postbell import Agent, Dead, DeadLetter, Failed, Invalid, Message, Release, Retry

from .mesh import ACK_DEADLINE_SECONDS, HEARTBEAT_SECONDS, mesh, sender

#: Longer than a message takes to come on a machine that is busy.
IDLE = 1.0
SOON = 0.2


class Handlers(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.sender = sender().agent()
        await self.sender.connect()
        self.addAsyncCleanup(self.sender.close)
        self.who = mesh().agent("worker")
        self.agent: Agent = self.who.agent(heartbeat=HEARTBEAT_SECONDS)
        await self.agent.connect()
        self.addAsyncCleanup(self.agent.close)

    async def send(self, payload: object, **more: object) -> str:
        return await self.sender.send(to=self.who.name, payload=payload, **more)  # type: ignore[arg-type]

    async def run_until(self, count: int, concurrency: int = 1) -> None:
        """Until so many were handled, which is when they are acknowledged."""
        running = asyncio.create_task(self.agent.run(concurrency))
        driver = self.agent._driver
        assert driver is not None
        acked, ack = 0, driver.ack

        def counted(message: Message, told: Callable[[bool], None] | None) -> None:
            nonlocal acked
            ack(message, told)
            acked += 1
            if acked == count:
                self.agent.stop()

        with patch.object(driver, "ack", counted):
            await running
        self.assertEqual(acked, count)
        self.assertEqual(await self.agent.drain(idle=SOON), 0, "they are acknowledged")

    async def run_until_dead(self, count: int, until: Callable[[], bool] = lambda: True) -> list[DeadLetter]:
        running = asyncio.create_task(self.agent.run())
        while len(letters := (await self.agent.dead_letters()).letters) < count or not until():
            await asyncio.sleep(0.05)
        self.agent.stop()
        await running
        return letters

    async def test_each_type_has_its_handler_and_the_rest_have_one(self) -> None:
        handled = []

        @self.agent.on("command", "query")
        async def ask(message: Message) -> None:
            handled.append(("ask", message.type))

        @self.agent.on()
        def rest(message: Message) -> None:
            handled.append(("rest", message.type))

        for kind in ("command", "query", "alert"):
            await self.send(1, type=kind)
        await self.run_until(3)
        self.assertEqual(handled, [("ask", "command"), ("ask", "query"), ("rest", "alert")])

    async def test_what_a_handler_raises_decides_what_becomes_of_the_message(self) -> None:
        seen: list[tuple[str, int]] = []

        @self.agent.on()
        async def handle(message: Message) -> None:
            seen.append((message.payload, message.attempt))
            if message.payload == "dead":
                raise Dead("there is no such county")
            if message.payload == "raises":
                raise KeyError("county")
            if message.payload == "retry" and message.attempt == 1:
                raise Retry(0.05) from OSError("the county is locked")
            if message.payload == "release" and seen.count(("release", 1)) == 1:
                raise Release(0.01)

        for payload in ("dead", "raises", "retry", "release"):
            await self.send(payload)
        letters = await self.run_until_dead(2, lambda: len(seen) == 8)
        attempts = {what: [n for payload, n in seen if payload == what] for what, _ in seen}
        self.assertEqual(attempts, {"dead": [1], "raises": [1, 2, 3], "retry": [1, 2], "release": [1, 1]})
        self.assertEqual(
            sorted((letter.payload, letter.reason) for letter in letters),
            [("dead", "there is no such county"), ("raises", "KeyError: 'county' (attempt 3, the last)")],
        )

    async def test_messages_of_a_type_that_nobody_handles_are_one_line_and_stay_with_the_broker(self) -> None:
        @self.agent.on("command")
        async def handle(message: Message) -> None: ...

        for n in range(5):
            await self.send(n, type="query")
        await self.send(1, type="command")
        with self.assertLogs("postbell", "WARNING") as log:
            summary = await self.agent.drain(idle=IDLE)
        self.assertEqual((summary.handled, summary.left, summary.failed, summary.dead), (1, 5, 0, 0))
        [line] = [line for line in log.output if "nobody here handles" in line]
        self.assertIn("messages of type query: they stay with the broker", line)
        self.assertEqual((await self.agent.dead_letters()).letters, [])
        # They come no sooner than after a minute: neither this agent nor another one is asked again and again.
        self.assertEqual(await self.agent.drain(idle=IDLE), 0)

    async def test_messages_of_a_type_that_nobody_handles_may_be_dead_letters_at_once_or_in_the_end(self) -> None:
        @self.agent.on("command")
        async def handle(message: Message) -> None: ...

        await self.send(1, type="query")
        with self.assertLogs("postbell", "WARNING") as log, self.assertRaisesRegex(Failed, "1 message was not handled"):
            await self.agent.drain(idle=IDLE, unhandled="dead")
        await self.send(2, type="query")
        summary = await self.agent.drain(idle=3 * IDLE, unhandled="fail", failures_ok=True)
        self.assertEqual((summary.failed, summary.retried, summary.lost), (3, 2, 1))
        self.assertNotIn("Traceback", "".join(log.output))
        letters = (await self.agent.dead_letters()).letters
        self.assertEqual(len(letters), 2)
        for letter in letters:
            self.assertIn("no handler for messages of type query", str(letter.reason))
        with self.assertRaisesRegex(Invalid, "unhandled is one of leave, dead, fail"):
            await self.agent.run(unhandled="ignore")  # type: ignore[arg-type]

    async def test_as_many_run_side_by_side_as_were_asked_for(self) -> None:
        running, together = 0, asyncio.Event()

        @self.agent.on()
        async def handle(message: Message) -> None:
            nonlocal running
            running += 1
            if running == 3:
                together.set()
            # Three, or it never ends.
            await together.wait()

        for n in range(3):
            await self.send(n)
        await self.run_until(3, concurrency=3)

    async def test_handlers_that_block_run_side_by_side_in_threads(self) -> None:
        together = threading.Barrier(3, timeout=10)

        @self.agent.on()
        def handle(message: Message) -> None:
            self.assertIsNot(threading.current_thread(), threading.main_thread())
            together.wait()

        for n in range(3):
            await self.send(n)
        await self.run_until(3, concurrency=3)

    async def test_a_handler_that_blocks_longer_than_the_deadline_and_two_heartbeats_keeps_its_message(self) -> None:
        attempts = []

        @self.agent.on()
        def handle(message: Message) -> None:
            attempts.append(message.attempt)
            time.sleep(1.6 * max(ACK_DEADLINE_SECONDS, 2 * HEARTBEAT_SECONDS))

        await self.send(1)
        driver = self.agent._driver
        assert driver is not None
        await self.run_until(1)
        self.assertEqual(attempts, [1])
        self.assertEqual(driver._generation, 1, "it is the first connection still")

    async def test_one_at_a_time_takes_one_at_a_time(self) -> None:
        other = self.who.agent()
        await other.connect()
        self.addAsyncCleanup(other.close)
        held, go = asyncio.Event(), asyncio.Event()

        @self.agent.on()
        async def handle(message: Message) -> None:
            held.set()
            await go.wait()

        for n in range(2):
            await self.send(n)
        running = asyncio.create_task(self.run_until(1))
        await held.wait()
        # The second one is left to whoever has time.
        message = await anext(other.messages())
        await message.ack()
        go.set()
        await running

    async def test_stopping_finishes_what_has_begun(self) -> None:
        begun, finished = asyncio.Event(), []

        @self.agent.on()
        async def handle(message: Message) -> None:
            begun.set()
            await asyncio.sleep(SOON)
            finished.append(message.payload)

        await self.send("begun")
        running = asyncio.create_task(self.agent.run())
        await begun.wait()
        self.agent.stop()
        self.assertEqual(await running, 1)
        self.assertEqual(finished, ["begun"])
        self.assertEqual(await self.agent.drain(idle=SOON), 0, "it is acknowledged")

    async def test_a_signal_stops(self) -> None:
        @self.agent.on()
        async def handle(message: Message) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        await self.send(1)
        before = signal.getsignal(signal.SIGTERM)
        self.assertEqual(await self.agent.run(), 1)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)

    async def test_draining_waits_for_a_handler_that_takes_longer_than_idle(self) -> None:
        finished = []

        @self.agent.on()
        async def handle(message: Message) -> None:
            await asyncio.sleep(1.5 * IDLE)
            finished.append(message.payload)

        await self.send("slow")
        self.assertEqual(await self.agent.drain(idle=IDLE), 1)
        self.assertEqual(finished, ["slow"])

    async def test_without_a_handler_there_is_nothing_to_run(self) -> None:
        with self.assertRaisesRegex(Invalid, "there is no handler"):
            await self.agent.run()

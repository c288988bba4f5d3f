"""Messages, what becomes of them, and who is told, on a real broker."""

from __future__ import annotations

import asyncio
import unittest
from datetime import timedelta

from postbell import Agent, DeadLetter, Invalid, Refused

from .mesh import ACK_DEADLINE_SECONDS, mesh, sender


class Messages(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.sender = sender().agent()
        await self.sender.connect()
        self.addAsyncCleanup(self.sender.close)
        self.who = mesh().agent("receiver")

    async def send(self, payload: object, **more: object) -> str:
        return await self.sender.send(to=self.who.name, payload=payload, **more)  # type: ignore[arg-type]

    async def take(self, agent: Agent, count: int, window: int | None = None) -> list[object]:
        payloads = []
        async for message in agent.messages(window):
            payloads.append(message.payload)
            self.assertTrue(await message.ack())
            if len(payloads) == count:
                break
        return payloads

    async def test_a_message_arrives_as_it_was_sent(self) -> None:
        sent = await self.send(
            {"county": "Žilina", "n": [1, 2.5, None]},
            type="query",
            priority=2,
            correlation_id="c1",
            headers={"lang": "sk"},
        )
        async with self.who.agent() as agent:
            message = await anext(agent.messages())
            self.assertEqual(
                (message.id, message.sender, message.type, message.priority, message.attempt, message.topic),
                (sent, self.sender.name, "query", 2, 1, None),
            )
            self.assertEqual(message.payload, {"county": "Žilina", "n": [1, 2.5, None]})
            self.assertEqual((message.correlation_id, message.headers), ("c1", {"lang": "sk"}))
            self.assertEqual(message.created_at.utcoffset(), timedelta(0))
            self.assertTrue(await message.ack())
            self.assertTrue(message.is_settled)

    async def test_what_was_acknowledged_does_not_come_again(self) -> None:
        await self.send("first")
        async with self.who.agent() as agent:
            self.assertEqual(await self.take(agent, 1), ["first"])
        await self.send("second")
        async with self.who.agent() as agent:
            self.assertEqual(await self.take(agent, 1), ["second"])

    async def test_what_failed_comes_again_with_the_next_attempt_and_is_dead_after_the_last(self) -> None:
        await self.send("hopeless")
        async with self.who.agent() as agent:
            attempts = []
            async for message in agent.messages():
                attempts.append(message.attempt)
                await message.fail("the county is locked", delay=0.01)
                if len(attempts) == 3:
                    break
            self.assertEqual(attempts, [1, 2, 3])
            letters = await self.letters(agent)
            self.assertEqual([letter.reason for letter in letters], ["the county is locked (attempt 3, the last)"])
            # Redriven it is as new.
            self.assertEqual(await agent.redrive(ids=[letters[0].id]), 1)
            message = await anext(agent.messages())
            self.assertEqual((message.payload, message.attempt), ("hopeless", 1))
            await message.dead("there is no such county")
            self.assertEqual([letter.reason for letter in await self.letters(agent)], ["there is no such county"])
            self.assertEqual(await agent.purge(inbox=agent.name), 1)
            self.assertEqual((await agent.dead_letters()).letters, [])

    async def letters(self, agent: Agent) -> list[DeadLetter]:
        # The nack is not answered: what it does is waited for.
        while not (page := await agent.dead_letters()).letters:
            await asyncio.sleep(0.02)
        return page.letters

    async def test_what_is_released_is_not_counted(self) -> None:
        await self.send("later")
        async with self.who.agent() as agent:
            messages = agent.messages()
            await (await anext(messages)).release()
            again = await anext(messages)
            self.assertEqual(again.attempt, 1)
            await again.ack()

    async def test_what_is_forgotten_fails(self) -> None:
        await self.send("forgotten")
        async with self.who.agent() as agent:
            attempts = []
            async for message in agent.messages():
                attempts.append(message.attempt)
                if message.attempt == 2:
                    await message.ack()
                    break
                del message
            self.assertEqual(attempts, [1, 2])

    async def test_what_waits_unread_is_given_back_uncounted(self) -> None:
        for n in range(3):
            await self.send(n)
        async with self.who.agent() as agent:
            async for message in agent.messages():
                await message.ack()
                break
        async with self.who.agent() as agent:
            async for message in agent.messages():
                self.assertEqual(message.attempt, 1)
                await message.ack()
                if message.payload == 2:
                    break

    async def test_the_urgent_come_first_and_the_window_is_kept(self) -> None:
        for payload, priority in (("low", 9), ("high", 1), ("middle", 5)):
            await self.send(payload, priority=priority)
        async with self.who.agent() as agent:
            messages = agent.messages(window=2)
            first, second = await anext(messages), await anext(messages)
            self.assertEqual((first.payload, second.payload), ("high", "middle"))
            third = asyncio.ensure_future(anext(messages))
            # Only a round trip with the broker shows that nothing more comes.
            await agent.dead_letters()
            self.assertFalse(third.done(), "two are not acknowledged")
            await first.ack()
            self.assertEqual((await third).payload, "low")
            for message in (second, third.result()):
                await message.ack()

    async def test_a_held_message_is_extended(self) -> None:
        await self.send("slow")
        async with self.who.agent() as agent:
            messages = agent.messages()
            message = await anext(messages)
            again = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(1.5 * ACK_DEADLINE_SECONDS)
            self.assertFalse(again.done(), "it came again")
            self.assertTrue(await message.ack())
            again.cancel()

    async def test_a_dedupe_key_makes_it_one_message(self) -> None:
        first = await self.send("once", dedupe_key="daily")
        self.assertEqual(await self.send("twice", dedupe_key="daily"), first)

    async def test_many_sends_are_under_way_at_once_and_keep_their_order(self) -> None:
        await asyncio.gather(*(self.send(n) for n in range(500)))
        async with self.who.agent() as agent:
            # Every sixteenth push is the oldest of all, which is the next one here too.
            self.assertEqual(await self.take(agent, 500), list(range(500)))

    async def test_subscribers_get_what_is_sent_to_a_topic_also_while_they_are_away(self) -> None:
        async with self.who.agent() as agent:
            await agent.subscribe("county.*.done")
            await self.sender.send(topic="county.c12.done", payload=40)
            message = await anext(agent.messages())
            self.assertEqual((message.topic, message.payload), ("county.c12.done", 40))
            await message.ack()
        await self.sender.send(topic="county.c13.done", payload=41)
        async with self.who.agent() as agent:
            self.assertEqual(await self.take(agent, 1), [41])
            await agent.unsubscribe("county.*.done")
            await self.sender.send(topic="county.c14.done", payload=42)
            await self.send("only this")
            self.assertEqual(await self.take(agent, 1), ["only this"])

    async def test_an_environment_gets_what_an_orchestrator_sends_there(self) -> None:
        here = mesh().agent("there", environment="moon")
        async with mesh().agent("boss", role="orchestrator").agent() as boss, here.agent() as agent:
            await boss.send(environment="moon", payload="landed")
            self.assertEqual(await self.take(agent, 1), ["landed"])

    async def test_refusals_are_the_brokers_sentences(self) -> None:
        with self.assertRaises(Refused) as refused:
            await self.sender.send(to="*", payload=1)
        self.assertEqual(refused.exception.code, "forbidden")
        self.assertIn("that takes the role orchestrator", str(refused.exception))
        with self.assertRaises(Refused) as refused:
            await self.send(1, type="poem")
        self.assertEqual(refused.exception.code, "bad_field")
        with self.assertRaises(Refused) as refused:
            await self.sender.subscribe("a..b")
        self.assertEqual(refused.exception.code, "bad_field")
        with self.assertRaises(Refused) as refused:
            await self.send("x" * 1_000_000)
        self.assertEqual(refused.exception.code, "payload_too_large")

    async def test_what_cannot_be_sent_is_refused_here_and_the_session_goes_on(self) -> None:
        for payload in (object(), float("nan"), "\ud800", "x" * 1_100_000):
            with self.assertRaises(Invalid):
                await self.send(payload)
        with self.assertRaises(Invalid):
            await self.sender.send(to="a", topic="b")
        self.assertTrue(await self.send("still here"))

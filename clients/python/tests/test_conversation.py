"""Questions and answers between agents, on a real broker."""

from __future__ import annotations

import asyncio
import unittest
from datetime import timedelta
from unittest.mock import patch

from postbell import Agent, Closed, Invalid, Message, NoAnswer, Refused, Reply
from postbell.limits import ANSWER_AGAIN_MS

from .mesh import Credentials, mesh

#: Longer than a message takes to come on a machine that is busy.
IDLE = 1.0
#: Long enough for any answer.
PATIENCE = 20.0


class Conversation(unittest.IsolatedAsyncioTestCase):
    async def opened(self, who: Credentials, **more: object) -> Agent:
        agent = who.agent(**more)
        await agent.connect()
        self.addAsyncCleanup(agent.close)
        return agent

    async def answering(self, who: Credentials, *, topic: str | None = None) -> Agent:
        """One that answers every query by its own name and what was asked, until the test ends."""
        agent = await self.opened(who)
        if topic:
            await agent.subscribe(topic)

        @agent.on("query")
        async def answer(message: Message) -> None:
            await message.reply({"from": agent.name, "to": message.payload}, headers={"lang": "en"})

        running = asyncio.create_task(agent.run(concurrency=4))

        async def stop() -> None:
            agent.stop()
            await running

        self.addAsyncCleanup(stop)
        return agent

    async def test_an_answer_comes_to_whoever_asked(self) -> None:
        asker, other = await self.opened(mesh().agent("asker")), await self.answering(mesh().agent("answerer"))
        replies = await asyncio.gather(*(asker.request(to=other.name, payload=n, timeout=PATIENCE) for n in range(20)))
        self.assertEqual([reply.payload for reply in replies], [{"from": other.name, "to": n} for n in range(20)])
        reply = replies[0]
        self.assertIsInstance(reply, Reply)
        self.assertEqual((reply.sender, reply.type, reply.headers), (other.name, "response", {"lang": "en"}))

        @asker.on()
        async def handle(message: Message) -> None: ...

        self.assertEqual(await asker.drain(idle=0.2), 0, "answers are acknowledged, and no handler's")

    async def test_the_message_says_what_it_is_an_answer_to(self) -> None:
        asker, other = await self.opened(mesh().agent("asker")), await self.opened(mesh().agent("answerer"))
        asking = asyncio.create_task(
            asker.request(to=other.name, type="command", payload={"n": 1}, headers={"lang": "en"}, priority=2)
        )
        message = await anext(other.messages())
        self.assertEqual((message.type, message.payload, message.priority), ("command", {"n": 1}, 2))
        self.assertEqual(message.headers, {"lang": "en", "reply_to": asker._settings.instance})
        self.assertTrue(message.correlation_id)
        first = await message.reply("one")
        self.assertEqual(await message.reply("two"), first, "a message has one answer")
        self.assertTrue(await message.ack())
        self.assertEqual(((await asking).payload, (await asking).correlation_id), ("one", message.correlation_id))

    async def test_an_answer_may_come_later_and_from_elsewhere(self) -> None:
        asker, other = await self.opened(mesh().agent("asker")), await self.opened(mesh().agent("answerer"))
        asking = asyncio.create_task(asker.request(to=other.name, timeout=PATIENCE))
        message = await anext(other.messages())
        self.assertEqual(message.reply_to, asker._settings.instance)
        await message.ack()
        answer = {"type": "response", "correlation_id": message.correlation_id, "to_instance": message.reply_to}
        elsewhere = await self.opened(mesh().agent("elsewhere"))
        await elsewhere.send(to=message.sender, payload="done", **answer)  # type: ignore[arg-type]
        self.assertEqual((await asking).payload, "done")
        with self.assertRaisesRegex(Invalid, "to_instance"):
            await other.send(topic="a", to_instance="b")

    async def test_who_did_not_answer_is_named_and_the_question_is_not_delivered_later(self) -> None:
        asker, other = await self.opened(mesh().agent("asker")), mesh().agent("absent")
        # Long enough for the broker to take them.
        asking = (
            asker.request(to=other.name, payload=1, timeout=timedelta(seconds=2)),
            asker.request(topic="not.here", timeout=2),
        )
        none, nobody = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(none, NoAnswer) and isinstance(nobody, NoAnswer), (none, nobody)
        self.assertIsInstance(none, TimeoutError)
        self.assertTrue(none.is_retryable)
        self.assertRegex(str(none), rf"no answer within 2 s from the agent {other.name} \(correlation_id .+\)")
        self.assertIn("those that subscribed to not.here", str(nobody))
        async with other.agent() as late:

            @late.on()
            async def handle(message: Message) -> None: ...

            self.assertEqual(await late.drain(idle=IDLE), 0)

    async def test_of_many_that_are_asked_the_first_answer_or_all_of_them(self) -> None:
        asker = await self.opened(mesh().agent("asker"))
        others = [await self.answering(mesh().agent("answerer"), topic="county.*.health") for _ in range(3)]
        first = await asker.request(topic="county.c12.health", payload="well?", timeout=PATIENCE)
        names = {other.name for other in others}
        self.assertIn(first.sender, names)
        replies = await asker.request_all(topic="county.c13.health", payload="well?", count=3, timeout=PATIENCE)
        self.assertEqual({reply.sender for reply in replies}, names)
        # Without a count it collects until its time is up.
        replies = await asker.request_all(topic="county.c14.health", timeout=3 * IDLE)
        self.assertEqual({reply.sender for reply in replies}, names)
        self.assertEqual(await asker.request_all(topic="nobody.here", timeout=IDLE), [])

    async def test_an_environment_answers(self) -> None:
        asker = await self.opened(mesh().agent("boss", role="orchestrator"))
        there = [await self.answering(mesh().agent("there", environment="mars")) for _ in range(2)]
        replies = await asker.request_all(environment="mars", payload="alive?", count=2, timeout=PATIENCE)
        self.assertEqual({reply.sender for reply in replies}, {agent.name for agent in there})

    async def test_a_late_answer_is_nobodys_message(self) -> None:
        asker, other = await self.opened(mesh().agent("asker")), await self.opened(mesh().agent("slow"))
        asking = asyncio.create_task(asker.request(to=other.name, timeout=IDLE))
        message = await anext(other.messages())
        with self.assertRaises(NoAnswer):
            await asking
        await message.reply("too late")
        await message.ack()
        await other.send(to=asker.name, payload="after it")
        last = await anext(asker.messages())
        self.assertEqual(last.payload, "after it")
        await last.ack()

    async def test_handlers_that_all_wait_for_answers_get_them_though_the_inbox_is_full(self) -> None:
        other, who = await self.answering(mesh().agent("answerer")), mesh().agent("asker")
        async with who.agent() as sender:
            await asyncio.gather(*(sender.send(to=who.name, type="command", payload=n) for n in range(50)))
        asker, heard = await self.opened(who), []

        @asker.on("command")
        async def handle(message: Message) -> None:
            self.assertEqual(message.attempt, 1)
            reply = await asker.request(to=other.name, payload=message.payload, timeout=PATIENCE)
            heard.append(reply.payload["to"])

        # Both hold their message until the answer is here.
        self.assertEqual(await asker.drain(idle=IDLE, concurrency=2), 50)
        self.assertEqual(sorted(heard), list(range(50)))

    async def test_whoever_only_asks_leaves_what_waits_for_it_alone(self) -> None:
        other, who = await self.answering(mesh().agent("answerer")), mesh().agent("asker")
        asker = await self.opened(who)
        for n in range(3):
            await asker.send(to=who.name, payload=n)
        for n in range(3):
            self.assertEqual((await asker.request(to=other.name, payload=n, timeout=PATIENCE)).payload["to"], n)
        messages = asker.messages()
        for n in range(3):
            message = await anext(messages)
            self.assertEqual((message.payload, message.attempt), (n, 1))
            await message.ack()

    async def test_an_answer_to_a_process_before_is_left_to_whoever_takes_messages(self) -> None:
        who, slow = mesh().agent("asker"), await self.opened(mesh().agent("slow"))
        first = await self.opened(who, instance="main")
        asking = asyncio.create_task(first.request(to=slow.name, timeout=IDLE))
        message = await anext(slow.messages())
        with self.assertRaises(NoAnswer):
            await asking
        await first.close()
        second = await self.opened(who, instance="main")
        driver = second._driver
        assert driver is not None
        with patch.object(driver, "nack", wraps=driver.nack) as nack:
            await message.reply("too late")
            await message.ack()
            # The answer comes beside the window, though nobody takes messages.
            while not nack.called:
                await asyncio.sleep(0.01)
            self.assertEqual(nack.call_args.kwargs["delay_ms"], ANSWER_AGAIN_MS, "it comes again, but not at once")
        late = await anext(second.messages())
        self.assertEqual((late.type, late.payload, late.attempt), ("response", "too late", 1))
        await late.ack()

    async def test_of_two_processes_of_an_agent_the_one_that_asked_gets_the_answer(self) -> None:
        who, other = mesh().agent("asker"), await self.answering(mesh().agent("answerer"))
        first, second = await self.opened(who), await self.opened(who)
        waiting = asyncio.ensure_future(anext(second.messages()))
        for n in range(10):
            self.assertEqual((await first.request(to=other.name, payload=n, timeout=PATIENCE)).payload["to"], n)
        await first.send(to=who.name, payload="anybody's")
        self.assertEqual((await waiting).payload, "anybody's", "no answer came here")
        await (await waiting).ack()

    async def test_each_message_to_a_group_goes_to_one_of_those_that_take_from_it(self) -> None:
        both = [await self.opened(mesh().agent("digger"), group="diggers") for _ in range(2)]
        sender = await self.opened(mesh().agent("sender"))
        for n in range(2):
            await sender.send(group="diggers", payload=n)
        # Each has room for one, and holds it until both have theirs.
        messages = [await anext(agent.messages(window=1)) for agent in both]
        self.assertEqual([(m.group, m.sender) for m in messages], 2 * [("diggers", sender.name)])
        self.assertEqual(sorted(m.payload for m in messages), [0, 1])
        self.assertEqual([await m.ack() for m in messages], [True, True])

    async def test_a_member_of_a_group_answers_and_asks(self) -> None:
        other = await self.answering(mesh().agent("answerer"))
        member = await self.opened(mesh().agent("digger"), group="askers")
        asker = await self.opened(mesh().agent("asker"))

        @member.on("query")
        async def pass_on(message: Message) -> None:
            both = await asyncio.gather(*(member.request(to=other.name, payload=n, timeout=PATIENCE) for n in range(2)))
            await message.reply([reply.payload["to"] for reply in both])

        running = asyncio.create_task(member.run())
        reply = await asker.request(group="askers", timeout=PATIENCE)
        self.assertEqual((reply.sender, reply.payload), (member.name, [0, 1]))
        member.stop()
        await running
        with self.assertRaisesRegex(NoAnswer, "the group nobodys"):
            await asker.request(group="nobodys", timeout=IDLE)

    async def test_messages_with_a_key_are_handled_one_after_the_other(self) -> None:
        agent, running, most = await self.opened(mesh().agent("sorter")), 0, 0

        @agent.on()
        async def handle(message: Message) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1

        for n in range(5):
            await agent.send(to=agent.name, payload=n, ordering_key="c12")
        self.assertEqual(await agent.drain(idle=IDLE, concurrency=5), 5)
        self.assertEqual(most, 1)

    async def test_whoever_asks_is_told_when_no_answer_can_come_any_more(self) -> None:
        who, other = mesh().agent("asker"), mesh().agent("absent")
        closed, older = await self.opened(who), await self.opened(who, instance="main")
        asking = [asyncio.create_task(agent.request(to=other.name, timeout=3600)) for agent in (closed, older)]
        # Both questions are stored.
        waiting = await self.opened(other)
        messages = waiting.messages()
        questions = [await anext(messages) for _ in asking]
        await closed.close()
        await self.opened(who, instance="main")
        with self.assertRaises(Closed):
            await asking[0]
        with self.assertRaises(Refused) as refused:
            await asking[1]
        self.assertEqual(refused.exception.code, "taken_over")
        for question in questions:
            await question.ack()

    async def test_a_question_needs_an_address_and_a_time(self) -> None:
        asker = await self.opened(mesh().agent("asker"))
        with self.assertRaisesRegex(Invalid, "one of to=, topic=, environment= and group="):
            await asker.request(payload=1)
        with self.assertRaisesRegex(Invalid, "timeout"):
            await asker.request(to="a", timeout=0)

"""The broker goes away and comes back; others take over; who is refused for good."""

from __future__ import annotations

import asyncio
import signal
import threading
import unittest
from unittest.mock import patch

from postbell import Agent, Interrupted, Message, PostbellError, Refused, TimedOut, Unreachable
from postbell.limits import RECONNECT_FIRST_SECONDS

from .fake import hello_of
from .mesh import WAIT_SECONDS, Credentials, mesh, sender


class Faults(unittest.IsolatedAsyncioTestCase):
    async def opened(self, who: Credentials, **more: object) -> Agent:
        agent = who.agent(**more)
        await agent.connect()
        self.addAsyncCleanup(agent.close)
        return agent

    async def restart(self, number: int) -> None:
        await asyncio.to_thread(mesh().end_broker, number)
        await asyncio.to_thread(mesh().start_broker)

    async def test_nothing_is_lost_when_the_broker_is_killed_and_started_again(self) -> None:
        who, peer = mesh().agent("survivor"), await self.opened(sender())
        agent = await self.opened(who)
        wanted, handled, some = set(range(60)), set(), asyncio.Event()

        @agent.on()
        async def handle(message: Message) -> None:
            await asyncio.sleep(0.01)
            handled.add(message.payload)
            if len(handled) >= 10:
                some.set()
            if handled == wanted:
                agent.stop()

        async def send(n: int) -> None:
            while True:
                try:
                    await peer.send(to=who.name, payload=n)
                    return
                except PostbellError as fault:
                    # Whether it was stored is not known: sent again it may come twice.
                    self.assertTrue(fault.is_retryable, fault)

        sending = asyncio.gather(*(send(n) for n in sorted(wanted)))
        running = asyncio.create_task(agent.run(concurrency=4))
        await some.wait()
        await self.restart(signal.SIGKILL)
        await asyncio.wait_for(sending, WAIT_SECONDS)
        await asyncio.wait_for(running, WAIT_SECONDS)
        self.assertEqual(handled, wanted)

    async def test_what_was_in_hand_is_acknowledged_after_the_reconnect_and_not_handled_twice(self) -> None:
        who = mesh().agent("holder")
        peer, agent = await self.opened(sender()), await self.opened(who)
        await peer.send(to=who.name, payload="held")
        await peer.send(to=who.name, payload="handled while away")
        messages = agent.messages()
        held, away = await anext(messages), await anext(messages)
        await asyncio.to_thread(mesh().end_broker)
        while agent.is_connected:
            await asyncio.sleep(0.02)
        self.assertFalse(await away.ack(), "nobody was there to take it")
        await asyncio.to_thread(mesh().start_broker)
        # The message is known again by its id, once it was pushed again; until then there is no tag to acknowledge.
        generation = held.connection
        while held.connection == generation:
            await asyncio.sleep(0.02)
        self.assertTrue(await held.ack())
        await self.nothing_but_the_last(who, agent, peer)

    async def test_an_ack_that_the_broker_did_not_read_is_said_again_after_the_reconnect(self) -> None:
        who = mesh().agent("holder")
        peer, agent = await self.opened(sender()), await self.opened(who)
        await peer.send(to=who.name, payload="handled")
        message = await anext(agent.messages())
        driver = agent._driver
        assert driver is not None
        mesh().freeze_broker()
        await message.ack(confirm=False)
        while not driver.pending._asks:
            await asyncio.sleep(0.01)
        self.assertTrue(driver.hands.is_handled(message.id), "it is written, and nobody said that it is committed")
        await self.restart(signal.SIGKILL)
        await self.nothing_but_the_last(who, agent, peer)

    async def nothing_but_the_last(self, who: Credentials, agent: Agent, peer: Agent) -> None:
        """Messages that were handled before are neither handed out again nor left with the broker."""
        while True:
            try:
                await peer.send(to=who.name, payload="last", dedupe_key=f"last-{who.name}")
                break
            except PostbellError as fault:
                self.assertTrue(fault.is_retryable, fault)
        last = await anext(agent.messages())
        self.assertEqual(last.payload, "last")
        self.assertTrue(await last.ack())
        driver = agent._driver
        assert driver is not None
        while driver.hands._handled:
            await asyncio.sleep(0.02)
        await agent.close()
        again = await self.opened(who)

        @again.on()
        async def handle(message: Message) -> None: ...

        self.assertEqual(await again.drain(idle=1), 0)

    async def test_a_send_with_a_key_is_repeated_and_one_without_is_told(self) -> None:
        who = mesh().agent("sender")
        agent = await self.opened(who)
        mesh().freeze_broker()
        keyed = asyncio.create_task(agent.send(to=who.name, payload=1, dedupe_key="k"))
        plain = asyncio.create_task(agent.send(to=who.name, payload=2))
        # Both are written, and nobody reads them.
        await asyncio.sleep(0)
        await self.restart(signal.SIGKILL)
        with self.assertRaises(Interrupted):
            await plain
        self.assertEqual(await keyed, await agent.send(to=who.name, dedupe_key="k"))

    async def test_a_broker_that_stops_is_left_in_peace(self) -> None:
        who = mesh().agent("leaver")
        agent, done = await self.opened(who), asyncio.Event()

        @agent.on()
        async def handle(message: Message) -> None:
            await done.wait()

        await agent.send(to=who.name, payload="begun")
        running = asyncio.create_task(agent.run())
        while not agent._driver or not agent._driver.hands.all_taken():
            await asyncio.sleep(0.02)
        stopping = asyncio.create_task(self.restart(signal.SIGTERM))
        session = agent._driver.session
        while session and not session.draining:
            await asyncio.sleep(0.02)
        done.set()
        await stopping
        while not agent.is_connected:
            await asyncio.sleep(0.02)
        agent.stop()
        self.assertEqual(await running, 1)
        self.assertEqual(await agent.drain(idle=1), 0, "it was acknowledged before the broker left")

    async def test_a_newer_session_of_the_instance_takes_over_for_good(self) -> None:
        who = mesh().agent("double")
        older = await self.opened(who, instance="main")
        taking = asyncio.ensure_future(anext(older.messages()))
        newer = await self.opened(who, instance="main")
        with self.assertRaises(Refused) as refused:
            await taking
        self.assertEqual(refused.exception.code, "taken_over")
        with self.assertRaises(Refused):
            await older.send(to=who.name, payload=1)
        self.assertFalse(older.is_connected)
        self.assertTrue(await newer.send(to=who.name, payload=1))

    async def test_being_taken_over_ends_run(self) -> None:
        who = mesh().agent("double")
        older = await self.opened(who, instance="main")

        @older.on()
        async def handle(message: Message) -> None: ...

        running = asyncio.create_task(older.run(concurrency=3))
        await asyncio.sleep(0)
        await self.opened(who, instance="main")
        with self.assertRaises(Refused) as refused:
            await running
        self.assertEqual(refused.exception.code, "taken_over")

    async def test_a_wrong_token_is_final(self) -> None:
        who = mesh().agent("stranger")
        with self.assertRaises(Refused) as refused:
            await who.agent(token="pb_guess").connect()
        self.assertEqual((refused.exception.code, refused.exception.is_final), ("unauthorized", True))
        self.assertRegex(str(refused.exception), r"unknown agent or wrong token \(incident .+\) \(unauthorized\)")

    async def test_a_broker_that_is_not_there_is_unreachable(self) -> None:
        who = mesh().agent("nobody")
        with self.assertRaisesRegex(Unreachable, r"the broker at 127\.0\.0\.1:1 cannot be reached: .*refused"):
            await who.agent(url="tcp://127.0.0.1:1").connect()

    async def test_an_older_hello_of_its_own_takes_over_from_nobody_for_good(self) -> None:
        came = asyncio.Semaphore(0)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hello_of(reader, writer)
            writer.write(b'{"op":"welcome","broker":"b","session":1,"limits":{"payload_bytes":9},"heartbeat_ms":9000}\n')
            writer.write(b'{"op":"error","code":"taken_over","fatal":true,"message":"a newer session"}\n')
            writer.close()
            came.release()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Agent("a", token="t", url=url):
            for _ in range(3):
                await asyncio.wait_for(came.acquire(), WAIT_SECONDS)
        async with Agent("a", token="t", url=url, instance="main") as named:
            with self.assertRaises(Refused):
                await anext(named.messages())
        server.close()

    async def test_it_comes_back_after_jittered_waits_that_grow_and_start_anew_with_each_welcome(self) -> None:
        welcome = b'{"op":"welcome","broker":"b","session":1,"limits":{"payload_bytes":9},"heartbeat_ms":9000}\n'
        came, greets = 0, asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal came
            came += 1
            await hello_of(reader, writer)
            # This broker takes the first, is away for three, takes one more and falls, and then stays.
            if came in (1, 5, 6):
                writer.write(welcome)
            if came == 6:
                greets.set()
                await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        around: list[float] = []

        def spread(seconds: float) -> float:
            around.append(seconds)
            return 0.0

        with patch("postbell.pace.spread", spread):
            async with Agent("a", token="t", url=f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"):
                await asyncio.wait_for(greets.wait(), WAIT_SECONDS)
        first = RECONNECT_FIRST_SECONDS
        self.assertEqual(around, [first, 2 * first, 4 * first, 8 * first, first])
        server.close()

    async def test_neither_a_job_nor_a_question_waits_for_ever_for_a_broker_that_is_away(self) -> None:
        agent = await self.opened(mesh().agent("job"))

        @agent.on()
        async def handle(message: Message) -> None: ...

        await asyncio.to_thread(mesh().end_broker)
        try:
            while agent.is_connected:
                await asyncio.sleep(0.02)
            with (
                patch("postbell.handlers.SEND_WAIT_SECONDS", 0.3),
                self.assertRaisesRegex(Unreachable, r"was not made again within 0\.3 s"),
            ):
                await agent.drain(idle=WAIT_SECONDS)
            with self.assertRaisesRegex(TimedOut, r"the broker did not answer in 0\.3 s"):
                await agent.request(to="anybody", timeout=0.3)
        finally:
            await asyncio.to_thread(mesh().start_broker)

    async def test_something_else_that_answers_is_no_broker(self) -> None:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example.com ESMTP\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with self.assertRaisesRegex(PostbellError, "no Postbell broker"):
            await Agent("a", token="t", url=f"tcp://127.0.0.1:{port}").connect()
        server.close()

    async def test_no_thread_and_no_task_is_left_behind(self) -> None:
        agent = mesh().agent("tidy").agent()
        before = len(asyncio.all_tasks()), threading.active_count()
        async with agent:
            pass
        await asyncio.sleep(0)
        self.assertEqual((len(asyncio.all_tasks()), threading.active_count()), before)

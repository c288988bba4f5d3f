"""The face that blocks."""

from __future__ import annotations

import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from postbell import Closed, LockLost, NoAnswer, Refused, Retry, SyncAgent, SyncMessage

from .mesh import ACK_DEADLINE_SECONDS, HEARTBEAT_SECONDS, mesh

#: Longer than a message takes to come on a machine that is busy.
IDLE = 1.0
SOON = 0.2


class Sync(unittest.TestCase):
    def setUp(self) -> None:
        self.who = mesh().agent("script")

    def opened(self) -> SyncAgent:
        agent = self.who.sync_agent()
        agent.connect()
        self.addCleanup(agent.close)
        return agent

    def test_a_script_sends_and_receives(self) -> None:
        with self.who.sync_agent() as agent:
            sent = agent.send(to=agent.name, type="command", payload={"n": 1})
            for message in agent.messages():
                self.assertEqual((message.id, message.type, message.payload), (sent, "command", {"n": 1}))
                self.assertTrue(message.ack())
                break
            self.assertEqual(agent.send(to=agent.name, payload=2, dedupe_key="k"), agent.send(to=agent.name, dedupe_key="k"))
        with self.assertRaises(Closed):
            agent.send(to=agent.name)

    def test_a_handler_may_block_longer_than_the_deadline_and_than_two_heartbeats(self) -> None:
        agent, attempts = self.opened(), []
        longer = 1.6 * max(ACK_DEADLINE_SECONDS, 2 * HEARTBEAT_SECONDS)

        @agent.on("command")
        def handle(message: SyncMessage) -> None:
            attempts.append(message.attempt)
            time.sleep(longer)

        agent.send(to=agent.name, type="command", payload=1)
        # A second one blocks in its own loop meanwhile.
        other = mesh().agent("script").sync_agent()
        with other, ThreadPoolExecutor(1) as thread:
            handled = thread.submit(agent.drain, idle=IDLE)
            other.send(to=other.name, payload=1)
            for message in other.messages():
                time.sleep(longer)
                self.assertEqual(message.attempt, 1)
                self.assertTrue(message.ack())
                break
            self.assertEqual(handled.result(), 1)
        self.assertEqual(agent.drain(idle=SOON), 0, "it is acknowledged")
        self.assertEqual(attempts, [1])

    def test_a_handler_may_compute_without_a_pause(self) -> None:
        agent, attempts = self.opened(), []

        @agent.on("command")
        def handle(message: SyncMessage) -> None:
            attempts.append(message.attempt)
            until = time.monotonic() + 1.6 * max(ACK_DEADLINE_SECONDS, 2 * HEARTBEAT_SECONDS)
            while time.monotonic() < until:
                sum(range(10_000))

        agent.send(to=agent.name, type="command", payload=1)
        self.assertEqual(agent.drain(idle=IDLE), 1)
        self.assertEqual(agent.drain(idle=SOON), 0, "it is acknowledged")
        self.assertEqual(attempts, [1])

    def test_scripts_ask_and_answer(self) -> None:
        asker, other = self.opened(), mesh().agent("script").sync_agent()
        other.connect()
        self.addCleanup(other.close)
        other.subscribe("county.script.health")

        @other.on("query")
        def answer(message: SyncMessage) -> None:
            message.reply({"to": message.payload})

        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(other.run)
            self.assertEqual(asker.request(to=other.name, payload=1).payload, {"to": 1})
            replies = asker.request_all(topic="county.script.health", payload=2, count=1)
            self.assertEqual([(reply.sender, reply.payload) for reply in replies], [(other.name, {"to": 2})])
            other.stop()
            self.assertEqual(running.result(), 2)
        other.unsubscribe("county.script.health")
        with self.assertRaisesRegex(NoAnswer, "county.script.health"):
            asker.request(topic="county.script.health", timeout=0.2)

    def test_a_lock_is_kept_while_the_script_blocks(self) -> None:
        first, second = self.opened(), mesh().agent("script").sync_agent()
        second.connect()
        self.addCleanup(second.close)
        with first.lock("script-1", ttl=1) as lock:
            self.assertTrue(lock.held and lock.fence)
            time.sleep(2.5)
            other = second.lock("script-1")
            self.assertEqual((other.held, other.holder, other.fence, other.is_done), (False, first.name, None, False))
            self.assertTrue(other.left)
            with self.assertRaises(LockLost):
                other.done()
            self.assertEqual(lock.key, "script-1")
            lock.done()
        self.assertTrue(second.lock("script-1").is_done)
        with second.lock("script-2"):
            self.assertFalse(first.lock("script-2").held)
        lock = first.lock("script-2")
        self.assertTrue(lock.held)
        lock.release()
        self.assertFalse(lock.held)

    def test_a_handler_may_send_and_settle_by_itself(self) -> None:
        agent, seen = self.opened(), []

        @agent.on("command")
        def command(message: SyncMessage) -> None:
            agent.send(to=agent.name, type="response", payload=message.payload + 1)
            if message.attempt == 1:
                raise Retry(0.01)
            message.ack()

        @agent.on("response")
        def response(message: SyncMessage) -> None:
            seen.append(message.payload)

        agent.send(to=agent.name, type="command", payload=1)
        self.assertEqual(agent.drain(idle=3 * IDLE, concurrency=2), 4)
        self.assertEqual(seen, [2, 2])

    def test_another_thread_stops_it(self) -> None:
        agent = self.opened()

        @agent.on()
        def handle(message: SyncMessage) -> None: ...

        threading.Timer(SOON, agent.stop).start()
        self.assertEqual(agent.run(concurrency=2), 0)

    def test_what_is_in_hand_when_the_script_falls_over_fails_with_the_reason(self) -> None:
        with self.assertRaises(ZeroDivisionError), self.who.sync_agent() as agent:
            agent.send(to=agent.name, payload=0)
            for message in agent.messages():
                print(1 / message.payload)
        with self.who.sync_agent() as agent:
            for message in agent.messages():
                self.assertEqual(message.attempt, 2)
                message.fail("the same", delay=0.01)
                break
            for message in agent.messages():
                message.fail("the same", delay=0.01)
                break

    def test_a_wrong_token_is_said_in_the_brokers_words_and_leaves_no_thread(self) -> None:
        before = threading.active_count()
        with self.assertRaisesRegex(Refused, "unknown agent or wrong token") as refused:
            self.who.sync_agent(token="pb_guess").connect()
        self.assertEqual((refused.exception.code, refused.exception.is_final), ("unauthorized", True))
        self.assertEqual(threading.active_count(), before)

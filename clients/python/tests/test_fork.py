"""A child that was forked: what it calls on its parent's agent is an error at once, and the parent does not notice."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
import unittest
from collections.abc import Callable
from typing import Any

from postbell import Agent, Forked, Message, SyncAgent, SyncMessage

from .fake import WAIT_SECONDS, fake, msg
from .mesh import mesh
from .require import needs


def in_child(work: Callable[[], None]) -> int:
    """Forks; the status with which the child ended, which is killed where it does not end."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def raises(call: Callable[[], object]) -> None:
    try:
        call()
    except Forked as fault:
        assert "open one here" in str(fault)
        return
    raise AssertionError(f"{call} went on")


@needs(hasattr(os, "fork"), "there is no fork here")
class Forks(unittest.TestCase):
    def test_everything_raises_in_the_child_of_a_script_and_the_parent_goes_on(self) -> None:
        who = mesh().agent("forker")
        with who.sync_agent() as agent, mesh().agent("other").sync_agent() as other:
            lock = agent.lock("fork-1", ttl=30)
            agent.send(to=who.name, payload=1)
            messages = agent.messages()
            message = next(messages)

            def drained() -> None:
                agent.on()(lambda message: None)
                agent.drain(idle=1)

            def child() -> None:
                for call in (
                    lambda: agent.send(to="b", payload=1),
                    lambda: agent.request(to="b", timeout=1),
                    lambda: agent.subscribe("a.b"),
                    lambda: agent.lock("x"),
                    lambda: agent.dead_letters(),
                    lambda: next(agent.messages()),
                    lambda: next(messages),
                    message.ack,
                    lambda: message.reply(1),
                    drained,
                ):
                    raises(call)
                assert not lock.held
                raises(lock.release)
                with lock:
                    pass
                agent.stop()
                agent.close()
                agent.close()
                gc.collect()

            self.assertEqual(in_child(child), 0)
            self.assertTrue(lock.held)
            self.assertTrue(message.ack(), "by the first connection still")
            self.assertTrue(agent.send(to=who.name, payload=2))
            again = next(messages)
            self.assertEqual((again.payload, again.attempt), (2, 1))
            again.ack()
            self.assertFalse(other.lock("fork-1").held, "it was not given back")

    def test_everything_raises_in_the_child_of_a_loop_and_the_parent_goes_on(self) -> None:
        async def run(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                messages = agent.messages()
                message = await anext(messages)
                loop = asyncio.get_running_loop()

                def step(work: Any) -> None:
                    # As far as it goes without a loop, which a child has not.
                    try:
                        work.send(None)
                    except StopIteration:
                        return
                    raise AssertionError("it waits")

                def child() -> None:
                    for call in (
                        lambda: step(agent.send(to="b", payload=1)),
                        lambda: step(agent.request(to="b", timeout=1)),
                        lambda: step(agent.subscribe("x")),
                        lambda: step(message.ack()),
                        lambda: step(message.fail("x")),
                        lambda: step(anext(messages)),
                        lambda: step(anext(agent.messages())),
                    ):
                        raises(call)
                    step(agent.close())

                status = await loop.run_in_executor(None, in_child, child)
                self.assertEqual(status, 0)
                self.assertTrue(await message.ack())
                self.assertTrue(await agent.send(to="b", payload=1))

        with fake([msg(1)]) as broker:
            asyncio.run(run(broker.url))
            broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            said = [frame["op"] for frame in broker.said[0]]
            self.assertEqual((len(broker.said), said.count("send"), said.count("bye")), (1, 1, 1), "the child wrote nothing")

    def test_the_child_may_open_it_anew_as_another_instance(self) -> None:
        who = mesh().agent("forker")
        agent = who.sync_agent()
        with agent:

            def child() -> None:
                with agent:
                    assert agent.send(to=who.name, payload="from the child")
                # And its own child is told again.
                assert in_child(lambda: agent.connect()) == 0

            self.assertEqual(in_child(child), 0)
            self.assertEqual(next(agent.messages()).payload, "from the child")
            self.assertTrue(agent.is_connected)

            async def anew() -> None:
                async with who.agent() as own:
                    assert await own.send(to=who.name, payload=1)

            self.assertEqual(in_child(lambda: asyncio.run(anew())), 0)

    def test_agents_made_before_the_fork_do_not_take_over_from_each_other(self) -> None:
        with fake([]) as broker:
            agent = SyncAgent("a", url=broker.url, token="t")
            with agent:
                self.assertEqual(in_child(lambda: agent.connect()), 0)
                self.assertEqual(in_child(lambda: agent.connect()), 0)
            instances = [frame["instance"] for said in broker.said for frame in said if frame["op"] == "hello"]
            self.assertEqual(len(set(instances)), 3, instances)

    def test_the_connection_ends_with_the_parent_though_a_child_lives_on(self) -> None:
        reader, writer = os.pipe()
        with fake([]) as broker:
            with SyncAgent("a", url=broker.url, token="t"):
                child = os.fork()
                if child == 0:
                    os.close(writer)
                    os.read(reader, 1)
                    os._exit(0)
            try:
                broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            finally:
                os.close(writer)
                os.close(reader)
                os.waitpid(child, 0)

    def test_a_handler_may_use_processes_of_multiprocessing(self) -> None:
        context = multiprocessing.get_context("fork")
        with fake([msg(n) for n in range(1, 4)]) as broker:
            results: list[object] = []
            with SyncAgent("a", url=broker.url, token="t") as agent:

                @agent.on()
                def handle(message: SyncMessage) -> None:
                    queue = context.SimpleQueue()

                    def work() -> None:
                        try:
                            agent.send(to="b", payload=1)
                        except Forked:
                            queue.put("forked")
                        agent.close()

                    process = context.Process(target=work)
                    process.start()
                    results.append(queue.get())
                    process.join(WAIT_SECONDS)
                    results.append(process.exitcode)

                agent.drain(idle=0.3, concurrency=1, report=False)
            self.assertEqual(results, ["forked", 0] * 3)
            self.assertEqual((broker.outcomes(), len(broker.said)), ({1: "ack", 2: "ack", 3: "ack"}, 1))

    def test_a_child_that_a_handler_lets_return_ends(self) -> None:
        children: list[int] = []

        def handle(message: SyncMessage) -> None:
            if child := os.fork():
                children.append(child)

        with fake([msg(1), msg(2)]) as broker:
            with SyncAgent("a", url=broker.url, token="t") as agent:
                agent.on()(handle)
                self.assertEqual(agent.drain(idle=0.3, report=False), 2)
            until = time.monotonic() + WAIT_SECONDS
            while children and time.monotonic() < until:
                children = [child for child in children if not os.waitpid(child, os.WNOHANG)[0]]
                time.sleep(0.01)
            self.assertEqual(children, [])
            self.assertEqual((broker.outcomes(), len(broker.said)), ({1: "ack", 2: "ack"}, 1))

    def test_a_child_that_leaves_the_block_says_nothing(self) -> None:
        with fake([msg(1)]) as broker:

            def block() -> None:
                with SyncAgent("a", url=broker.url, token="t") as agent:
                    for message in agent.messages():
                        child = os.fork()
                        if child == 0:
                            raise ZeroDivisionError("in the child")
                        _, status = os.waitpid(child, 0)
                        self.assertEqual(os.waitstatus_to_exitcode(status), 5)
                        self.assertTrue(message.ack())
                        break

            me = os.getpid()
            try:
                block()
            except ZeroDivisionError:
                os._exit(5 if os.getpid() != me else 70)
            said = [frame["op"] for frame in broker.said[0]]
            self.assertEqual((said.count("bye"), "nack" in said, len(broker.said)), (1, False, 1))

    def test_many_forks_beside_traffic(self) -> None:
        with fake([msg(n) for n in range(1, 2001)]) as broker:
            with SyncAgent("a", url=broker.url, token="t") as agent:
                agent.on()(lambda message: None)
                forking = threading.Thread(target=lambda: [in_child(agent.close) for _ in range(20)])
                forking.start()
                summary = agent.drain(idle=0.5, concurrency=4, report=False)
                forking.join()
            self.assertEqual((int(summary), len(broker.said)), (2000, 1))
            self.assertEqual(set(broker.outcomes().values()), {"ack"})


class Loops(unittest.IsolatedAsyncioTestCase):
    async def test_a_handler_of_a_loop_may_fork(self) -> None:
        with fake([msg(1), msg(2)]) as broker:
            async with Agent("a", url=broker.url, token="t") as agent:

                @agent.on()
                async def handle(message: Message) -> None:
                    child = os.fork()
                    if child == 0:
                        try:
                            await agent.send(to="b", payload=1)
                        except Forked:
                            await agent.close()
                            os._exit(0)
                        finally:
                            os._exit(1)
                    _, status = await asyncio.to_thread(os.waitpid, child, 0)
                    assert status == 0, status

                self.assertEqual(await agent.drain(idle=0.3, report=False), 2)
            self.assertEqual((broker.outcomes(), len(broker.said)), ({1: "ack", 2: "ack"}, 1))

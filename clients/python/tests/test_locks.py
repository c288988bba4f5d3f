"""One of several agents that could do a task does it, on a real broker."""

from __future__ import annotations

import asyncio
import signal
import unittest

from postbell import Agent, Invalid, Lock, LockLost

from .mesh import WAIT_SECONDS, mesh

#: The shortest that is allowed.
TTL = 1.0


class Locks(unittest.IsolatedAsyncioTestCase):
    async def opened(self) -> Agent:
        agent = mesh().agent("locker").agent()
        await agent.connect()
        self.addAsyncCleanup(agent.close)
        return agent

    async def until_held(self, agent: Agent, key: str, ttl: float = 60) -> Lock:
        while not (lock := await agent.lock(key, ttl)).held:
            await asyncio.sleep(0.05)
        return lock

    async def test_one_of_three_does_it_and_the_others_are_told_who(self) -> None:
        agents = [await self.opened() for _ in range(3)]
        locks = await asyncio.gather(*(agent.lock("daily-1", ttl=60) for agent in agents))
        [mine] = [lock for lock in locks if lock.held]
        holder = agents[locks.index(mine)].name
        for other in locks:
            if other is not mine:
                self.assertEqual((other.holder, other.fence, other.is_done), (holder, None, False))
                self.assertTrue(other.left is not None and 0 < other.left <= 60)
                with self.assertRaises(LockLost):
                    await other.done()
                await other.release()
        await mine.release()
        self.assertFalse(mine.held)
        async with agents[0].lock("daily-1") as again:
            assert again.fence and mine.fence
            self.assertTrue(again.held and again.fence > mine.fence)
            await again.done()
        over = await agents[1].lock("daily-1")
        self.assertEqual((over.held, over.is_done, over.holder), (False, True, agents[0].name))

    async def test_the_end_of_the_block_gives_it_back_also_where_it_was_an_exception(self) -> None:
        first, second = await self.opened(), await self.opened()
        with self.assertRaises(ZeroDivisionError):
            async with first.lock("daily-2") as lock:
                self.assertTrue(lock.held)
                raise ZeroDivisionError
        async with second.lock("daily-2") as lock:
            self.assertTrue(lock.held)

    async def test_it_is_renewed_by_itself_for_as_long_as_it_is_held(self) -> None:
        first, second = await self.opened(), await self.opened()
        async with first.lock("daily-3", ttl=2 * TTL) as lock:
            until = asyncio.get_running_loop().time() + 5 * TTL
            while asyncio.get_running_loop().time() < until:
                other = await second.lock("daily-3")
                self.assertEqual((lock.held, other.held, other.holder), (True, False, first.name))
                await asyncio.sleep(0.1)
        self.assertTrue((await second.lock("daily-3")).held)

    async def test_a_holder_that_is_gone_has_it_until_its_time_ends(self) -> None:
        first, second = await self.opened(), await self.opened()
        gone = await first.lock("daily-4", ttl=TTL)
        await first.close()
        self.assertFalse(gone.held, "nobody renews it")
        lock = await self.until_held(second, "daily-4")
        assert lock.fence and gone.fence
        self.assertGreater(lock.fence, gone.fence)

    async def test_one_that_could_not_be_renewed_is_lost_and_the_block_says_so(self) -> None:
        agent = await self.opened()
        with self.assertRaisesRegex(LockLost, "daily-5"):
            async with agent.lock("daily-5", ttl=TTL) as lock:
                self.assertTrue(lock.held)
                mesh().freeze_broker()
                try:
                    await asyncio.wait_for(lock.lost(), WAIT_SECONDS)
                finally:
                    await asyncio.to_thread(mesh().end_broker, signal.SIGKILL)
                    await asyncio.to_thread(mesh().start_broker)
                self.assertFalse(lock.held)

    async def test_a_time_that_no_lock_has_is_refused_here(self) -> None:
        agent = await self.opened()
        for ttl in (0.5, 3_601, -1):
            with self.assertRaises(Invalid):
                agent.lock("daily-6", ttl)

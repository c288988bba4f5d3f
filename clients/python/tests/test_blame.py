"""A message that kills the process again and again is the only one that pays for it, on a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from .mesh import WAIT_SECONDS, Credentials, mesh, sender

WINDOW = 32
#: In the middle: neighbours are handled before it, and others wait behind it.
DEADLY = 16
ATTEMPTS = 3
HERE = str(Path(__file__).resolve().parents[1])

HANDLE = f"""
import asyncio, os, sys
from postbell import Agent, SyncAgent

LOG = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)

def handle(message):
    # Written before the handler returns, by one system call: the log outlives the process.
    os.write(LOG, ("[%d, %d]\\n" % (message.payload, message.attempt)).encode())
    if message.payload == {DEADLY}:
        os._exit(9)
"""
TAILS = {
    "def": """
        with SyncAgent(window=32) as agent:
            agent.on()(handle)
            agent.drain(idle=1, report=False)
    """,
    "async def": """
        async def handle_async(message):
            handle(message)

        async def main():
            async with Agent(window=32) as agent:
                agent.on()(handle_async)
                await agent.drain(idle=1, report=False)

        asyncio.run(main())
    """,
    "messages": """
        async def main():
            async with Agent(window=32) as agent:
                async for message in agent.messages():
                    handle(message)
                    await message.ack(confirm=False)
                    if message.payload == 31:
                        break

        asyncio.run(main())
    """,
}


class Blame(unittest.IsolatedAsyncioTestCase):
    async def test_the_neighbours_of_a_message_that_kills_the_process_lose_no_attempt(self) -> None:
        for kind, tail in TAILS.items():
            with self.subTest(kind):
                who = mesh().agent("mortal")
                async with sender().agent() as peer:
                    for n in range(WINDOW):
                        await peer.send(to=who.name, payload=n)
                deaths, handled = self.until_it_lives(HANDLE + textwrap.dedent(tail), who)
                self.assertEqual(deaths, ATTEMPTS)
                deadly = [attempt for n, attempt in handled if n == DEADLY]
                self.assertEqual(deadly, list(range(1, ATTEMPTS + 1)))
                neighbours = sorted((n, attempt) for n, attempt in handled if n != DEADLY)
                self.assertEqual(neighbours, [(n, 1) for n in range(WINDOW) if n != DEADLY], "each once")
                async with who.agent() as agent:
                    letters = (await agent.dead_letters()).letters
                self.assertEqual([(letter.payload, letter.attempts) for letter in letters], [(DEADLY, ATTEMPTS)])

    def until_it_lives(self, program: str, who: Credentials) -> tuple[int, list[tuple[int, int]]]:
        """Starts the agent until it ends by itself: how often it died, and what its handlers had, with the attempt."""
        environment = os.environ | {"POSTBELL_AGENT": who.name, "POSTBELL_URL": who.url, "POSTBELL_TOKEN": who.token}
        environment["PYTHONPATH"] = HERE
        with tempfile.NamedTemporaryFile() as log:
            deaths = 0
            while deaths < 2 * ATTEMPTS:
                status = subprocess.run(
                    [sys.executable, "-c", program, log.name], env=environment, timeout=2 * WAIT_SECONDS, check=False
                ).returncode
                if status != 9:
                    self.assertEqual(status, 0)
                    break
                deaths += 1
            lines = Path(log.name).read_text(encoding="utf-8").splitlines()
        return deaths, [(n, attempt) for n, attempt in map(json.loads, lines)]

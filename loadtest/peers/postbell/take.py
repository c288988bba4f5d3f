"""Takes messages by Postbell's Python library: see README.md beside this."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, os.environ["POSTBELL_LIBRARY"])

from line import Line, main
from postbell import Agent

WINDOW = 1_000
#: How long a receipt may wait to be written, in seconds: the load test takes its moment from its line.
WRITE_EVERY = 0.01


def take(line: Line) -> None:
    """Takes until it is told to stop, acknowledging each message by itself."""
    asyncio.run(receive(line))


async def receive(line: Line) -> None:
    """Takes each delivery as it comes; another task looks at the orders."""
    async with Agent(window=WINDOW) as agent:
        line.say("taking")
        taking = asyncio.create_task(take_all(line, agent))
        while not line.stopped.is_set() and not taking.done():
            await asyncio.sleep(WRITE_EVERY)
            line.flush()
        if taking.done():
            taking.result()
        taking.cancel()


async def take_all(line: Line, agent: Agent) -> None:
    """Takes until it is cancelled."""
    async for message in agent.messages():
        line.received(message.payload["n"], time.monotonic_ns())
        await message.ack(confirm=False)


if __name__ == "__main__":
    main(dict, take)

"""How fast one process receives and acknowledges what waits for it.

An agent takes COUNT messages and acknowledges each by itself, without waiting for the answer: ``async for`` with
``ack(confirm=False)``. The script prints a line of JSON: how many came, how many of them again, and the seconds from before
it connected to the last message, and to its leaving, when the broker has said of every ack that it is committed.
`loadtest run python` fills the inbox, starts this beside its floor, and looks in the table whether that is so.

    POSTBELL_URL=… POSTBELL_AGENT=… POSTBELL_TOKEN=… python3 bench/receive.py 50000
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from postbell import Agent

WINDOW = 1_000


async def receive(count: int) -> dict[str, object]:
    """Returns what came, how often something came twice, and how long that took."""
    numbers: set[int] = set()
    received = 0
    began = time.perf_counter()
    async with Agent(window=WINDOW) as agent:
        async for message in agent.messages():
            numbers.add(message.payload["n"])
            received += 1
            await message.ack(confirm=False)
            if len(numbers) == count:
                break
        received_seconds = time.perf_counter() - began
    settled_seconds = time.perf_counter() - began
    return {
        "received": len(numbers),
        "duplicated": received - len(numbers),
        "received_seconds": received_seconds,
        "settled_seconds": settled_seconds,
        "cpu_seconds": time.process_time(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(receive(int(sys.argv[1])))))

"""Agents of a Postbell broker.

    async with Agent("validation-agent", url="tcp+tls://broker.example.com") as agent:
        async for message in agent.messages():
            print(message.payload)
            await message.ack()

`Agent` is for asyncio, `SyncAgent` the same for scripts that block.
"""

from .agent import Agent
from .dead import DeadLetter, DeadLetters
from .errors import (
    Closed,
    Interrupted,
    Invalid,
    NoBroker,
    PostbellError,
    Refused,
    TimedOut,
    TlsFailed,
    Unreachable,
)
from .message import Dead, Message, Release, Retry
from .sync import SyncAgent, SyncMessage
from .version import VERSION as __version__

__all__ = [
    "Agent",
    "Closed",
    "Dead",
    "DeadLetter",
    "DeadLetters",
    "Interrupted",
    "Invalid",
    "Message",
    "NoBroker",
    "PostbellError",
    "Refused",
    "Release",
    "Retry",
    "SyncAgent",
    "SyncMessage",
    "TimedOut",
    "TlsFailed",
    "Unreachable",
    "__version__",
]

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
    LockLost,
    NoAnswer,
    NoBroker,
    PostbellError,
    Refused,
    TimedOut,
    TlsFailed,
    Unreachable,
)
from .lock import Lock
from .message import Dead, Message, Release, Reply, Retry
from .sync import SyncAgent, SyncLock, SyncMessage
from .version import VERSION as __version__

__all__ = [
    "Agent",
    "Closed",
    "Dead",
    "DeadLetter",
    "DeadLetters",
    "Interrupted",
    "Invalid",
    "Lock",
    "LockLost",
    "Message",
    "NoAnswer",
    "NoBroker",
    "PostbellError",
    "Refused",
    "Release",
    "Reply",
    "Retry",
    "SyncAgent",
    "SyncLock",
    "SyncMessage",
    "TimedOut",
    "TlsFailed",
    "Unreachable",
    "__version__",
]

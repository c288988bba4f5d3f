"""Agents of a Postbell broker.

    async with Agent("validation-agent", url="tcp+tls://broker.example.com") as agent:
        async for message in agent.messages():
            print(message.payload)
            await message.ack()

`Agent` is for asyncio, `SyncAgent` the same for scripts that block.
"""

from .agent import Agent
from .blocking import SyncLock, SyncMessage
from .dead import Administered, DeadLetter, DeadLetters, LettersRefused
from .errors import (
    Closed,
    Forked,
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
    Unreadable,
)
from .lock import Lock
from .message import Dead, Message, Release, Reply, Retry
from .sync import SyncAgent
from .tally import Failed, Summary
from .version import VERSION as __version__

__all__ = [
    "Administered",
    "Agent",
    "Closed",
    "Dead",
    "DeadLetter",
    "DeadLetters",
    "Failed",
    "Forked",
    "Interrupted",
    "Invalid",
    "LettersRefused",
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
    "Summary",
    "SyncAgent",
    "SyncLock",
    "SyncMessage",
    "TimedOut",
    "TlsFailed",
    "Unreachable",
    "Unreadable",
    "__version__",
]

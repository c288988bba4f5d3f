"""The messages that arrived: those that wait to be taken, those that somebody has, and those that were handled though
the broker may not know it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from weakref import ref

from .errors import PostbellError
from .limits import HANDLED_MAX
from .message import Message


class Hands:
    """A queue as long as the window, which the broker keeps, and memory of what was taken from it."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._changed = asyncio.Event()
        # By the message's id: a tag changes with the connection. Weak: one that its reader lets go of is forgotten.
        self._taken: dict[str, ref[Message]] = {}
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._ended: PostbellError | None = None

    def put(self, message: Message) -> None:
        """Adds a message that waits to be taken."""
        self._waiting.append(message)
        self._changed.set()

    async def take(self) -> Message:
        """The next one; raises why there will be none. May be cancelled."""
        while (message := self.take_now()) is None:
            if self._ended:
                raise self._ended
            self._changed.clear()
            await self._changed.wait()
        return message

    def take_now(self) -> Message | None:
        """The next one, if it is here."""
        if not self._waiting:
            return None
        message = self._waiting.popleft()
        self._taken[message.id] = ref(message)
        return message

    def give_up(self, error: PostbellError) -> None:
        """In a forked child: all of it is the parent's. Nobody is woken, since no loop goes round here."""
        self._ended = error
        for message in (*self._waiting, *self.all_taken()):
            message.settle()
        self._waiting.clear()
        self._taken.clear()

    @property
    def taken_count(self) -> int:
        """How many are in somebody's hands."""
        return len(self._taken)

    def __len__(self) -> int:
        return len(self._waiting)

    def end(self, error: PostbellError) -> None:
        """Nothing will come any more."""
        self._ended = error
        self._changed.set()

    def empty(self) -> list[Message]:
        """Removes and returns the messages that no handler took."""
        messages = list(self._waiting)
        self._waiting.clear()
        return messages

    def taken(self, message_id: str) -> Message | None:
        """The message, if somebody has taken it, still has it and has not settled it."""
        taken = self._taken.get(message_id)
        return taken() if taken else None

    def all_taken(self) -> list[Message]:
        """Messages that handlers took and have not settled."""
        return [message for taken in list(self._taken.values()) if (message := taken())]

    def forgotten(self, message_id: str) -> None:
        """Drops a message that its taker let go of, unless the message came anew meanwhile."""
        if message_id in self._taken and self.taken(message_id) is None:
            del self._taken[message_id]

    def settled(self, message_id: str) -> None:
        """Something became of it."""
        self._taken.pop(message_id, None)

    def is_handled(self, message_id: str) -> bool:
        """Whether the message was handled here, and its ack may not have arrived."""
        return message_id in self._handled

    def handled(self, message_id: str) -> None:
        """Remembered until the broker says that it knows."""
        self._handled[message_id] = None
        if len(self._handled) > HANDLED_MAX:
            self._handled.popitem(last=False)

    def acked(self, message_id: str) -> None:
        """The broker knows."""
        self._handled.pop(message_id, None)

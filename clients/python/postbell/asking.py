"""Questions to other agents that wait for their answers: no IO.

A question travels as a message of its own with a fresh ``correlation_id``, and so does each answer: nothing but that id
says that they belong together.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import PostbellError
from .limits import ANSWERS_MAX, QUESTIONS_OVER_MAX
from .message import Facts, Reply


class Question:
    """One that was asked, and the answers that came so far."""

    def __init__(self, correlation_id: str) -> None:
        self.correlation_id = correlation_id
        self._replies: deque[Reply] = deque()
        self._changed = asyncio.Event()
        self._ended: PostbellError | None = None

    def answered(self, reply: Reply) -> bool:
        """False if there are too many that nobody took."""
        if len(self._replies) >= ANSWERS_MAX:
            return False
        self._replies.append(reply)
        self._changed.set()
        return True

    def take(self) -> Reply | None:
        """The oldest answer that nobody took."""
        return self._replies.popleft() if self._replies else None

    async def wait(self) -> None:
        """Until there is one; raises why none will come."""
        while not self._replies:
            if self._ended:
                raise self._ended
            self._changed.clear()
            await self._changed.wait()

    def end(self, error: PostbellError) -> None:
        """No further answer can come."""
        self._ended = error
        self._changed.set()


class Asking:
    """Questions under way, by their ``correlation_id``. Outlives the connections."""

    def __init__(self) -> None:
        self._open: dict[str, Question] = {}
        # Answers that come after the asker left, or twice, are nobody's messages: the oldest question is forgotten first.
        self._over: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def question(self) -> Iterator[Question]:
        """One that is under way until the block ends."""
        question = Question(str(uuid.uuid4()))
        self._open[question.correlation_id] = question
        try:
            yield question
        finally:
            del self._open[question.correlation_id]
            self._over[question.correlation_id] = None
            if len(self._over) > QUESTIONS_OVER_MAX:
                self._over.popitem(last=False)

    def end(self, error: PostbellError) -> None:
        """There will be no further connection."""
        for question in self._open.values():
            question.end(error)

    def is_answer(self, message: Facts) -> bool:
        """Whether it answers a question of ours, one that is over included: the agent's handlers do not get answers."""
        return message.type == "response" and (message.correlation_id in self._open or message.correlation_id in self._over)

    def answered(self, message: Facts, fault: str | None = None) -> bool:
        """Tells whoever asked, also why the answer cannot be read; false if nobody waits for it any more."""
        question = self._open.get(message.correlation_id or "")
        return question is not None and question.answered(Reply(message.frame, fault))

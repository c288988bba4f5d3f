"""An agent: what a program holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from . import dead, forks, outgoing, settings
from .asking import Question as Asking
from .dead import Administered, DeadLetters
from .driver import Driver
from .errors import Closed, Forked, Invalid, NoAnswer
from .fields import Addressed, Draining, Given, Question, Questions, Sending, Serving, Unpack, check
from .frames import Frame
from .handlers import Terms, serve
from .leaving import blame
from .limits import ANSWER_WAIT_SECONDS, LOCK_SECONDS
from .lock import Locking, Locks
from .message import Duration, Message, Reply, milliseconds
from .outcomes import exit_of
from .outgoing import Recipient
from .registry import Handlers
from .tally import Failed, Summary

H = TypeVar("H", bound=Callable[..., Any])


class Agent:
    """An agent's connection to a broker, kept up for as long as it is open.

    Settings that are not given are read from the environment: POSTBELL_AGENT, POSTBELL_URL, POSTBELL_TOKEN (or
    POSTBELL_TOKEN_FILE), POSTBELL_CA, POSTBELL_PIN, POSTBELL_CLIENT_CERT, POSTBELL_CLIENT_KEY, POSTBELL_INSTANCE,
    POSTBELL_GROUP and ENVIRONMENT.

    With a `group` it takes that group's messages instead of its own; each of them goes to one of those that take from it. An
    agent that wants both opens two.

    `environment`, `capabilities` (a list or an object) and `version` are in the registry from when it connects.

    A closed agent may be opened again; an agent belongs to the event loop that it was opened in.
    """

    def __init__(self, name: str | None = None, **given: Unpack[Given]) -> None:
        check("Agent", given, Given)
        self._settings = settings.read(name, **given)
        #: Who handles what.
        self.handlers = Handlers()
        self._driver: Driver | None = None
        # For answers, which come to the agent's own inbox: of one that takes a group's messages.
        self._asker: Driver | None = None
        self._opening = asyncio.Lock()
        self._locks = Locks()
        self._takers = 0
        forks.tell(self)

    def forked(self) -> None:
        """In a child, where no handlers run: it may be opened here, as another instance unless it was given a name."""
        self.handlers.forget()
        if self._settings.is_instance_ours:
            self._settings = replace(self._settings, instance=settings.new_instance())

    @property
    def name(self) -> str:
        """The agent that this is."""
        return self._settings.agent

    @property
    def environment(self) -> str | None:
        """Where it runs, as ENVIRONMENT says."""
        return self._settings.environment

    @property
    def is_connected(self) -> bool:
        """Whether there is a session now; where there is none, it is being made again."""
        return self._driver is not None and self._driver.session is not None

    async def connect(self) -> None:
        """Connects once, or raises why not; from then on the connection is kept up."""
        if self._driver is not None and self._driver.ended is None:
            return
        if self._driver is not None and isinstance(self._driver.ended, Forked):
            # The parent's is left behind. From here on it is told of forks of this process.
            self._driver, self._asker, self._takers = None, None, 0
            self._locks = Locks()
            forks.tell(self)
        driver = Driver(self._settings)
        await driver.start()
        self._driver, self._opening = driver, asyncio.Lock()

    async def close(self) -> None:
        """Gives back what was not handled, writes what was, and says goodbye."""
        await self._leave(None)

    async def __aenter__(self) -> Agent:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(fault)

    async def _leave(self, fault: BaseException | None) -> None:
        driver, self._driver = self._driver, None
        asker, self._asker = self._asker, None
        if driver is None or isinstance(driver.ended, Forked):
            # In a child that was forked: the parent goes on.
            return
        if asker:
            await asker.close()
        self._locks.drop_all()
        driver.set_window(0)
        driver.release_waiting()
        # A message in hand when the agent falls over may be why.
        outcome = blame(fault)
        for message in driver.hands.all_taken():
            delay_ms = milliseconds("delay", outcome.delay)
            driver.nack(message, outcome.what, delay_ms=delay_ms, reason=outcome.reason)
        await driver.close()

    async def messages(self, window: int | None = None) -> AsyncGenerator[Message, None]:
        """The messages, in the order in which the broker pushed them, for as long as the agent is open. Raises why the
        connection ended for good, such as `Refused` with the code `taken_over`.

        Until this is asked for the agent takes none. `window` is the most at once, handed out or waiting here: small where
        handling takes long, so that others can take what waits; 32 where nothing else was said."""
        with self._taking(self._settings.prefetch if window is None else window) as driver:
            try:
                while True:
                    message = driver.hands.take_now() or await driver.hands.take()
                    driver.begin(message)
                    yield message
                    # Ours would keep it alive after the reader forgot it.
                    del message
            except Closed:
                return

    @contextmanager
    def _taking(self, window: int) -> Iterator[Driver]:
        driver = self._open()
        self._takers += 1
        driver.set_window(window)
        try:
            yield driver
        finally:
            self._takers -= 1
            if self._takers == 0:
                driver.set_window(0)
                driver.release_waiting()

    def on(self, *types: str) -> Callable[[H], H]:
        """A decorator: handles messages of these types; without any, of all that no other handler is for.

        A handler gets the `Message`. An `async def` runs in the event loop; a `def` runs in a thread of its own, where it
        may block. Returning acknowledges; raising fails the attempt with the exception as reason; see `Retry`, `Dead` and
        `Release`."""
        return self.handlers.on(*types)

    async def run(self, concurrency: int = 1, **serving: Unpack[Serving]) -> Summary:
        """Handles messages until `stop`, SIGTERM or SIGINT, then finishes what it has begun, for at most `grace` seconds;
        says how many messages it took, and what became of them. Raises why the connection ended for good, and what a handler
        ended the process with. The window is `concurrency`, unless the agent was given one.

        `unhandled` is what becomes of messages whose type has no handler: ``leave`` gives them back, uncounted, for a minute
        or for as long as they are old, up to an hour; ``dead`` makes them dead letters; ``fail`` fails the attempt.
        `report=False` says nothing at the end."""
        check("run", serving, Serving)
        terms = Terms(concurrency, idle=None, failures_ok=True, **serving)
        return await self._serve(terms)

    async def drain(self, idle: float = 5.0, concurrency: int = 1, **serving: Unpack[Draining]) -> Summary:
        """For scheduled jobs: like `run`, and leaves when nothing came for `idle` seconds and nothing is being handled.
        Raises `Unreachable` where the broker is away for long, and `Failed` at the end where messages were not handled: a
        script that does not catch it exits by 1. With `failures_ok` they are only counted."""
        check("drain", serving, Draining)
        terms = Terms(concurrency, idle=idle, **serving)
        return await self._serve(terms)

    async def _serve(self, terms: Terms) -> Summary:
        if self.handlers.is_empty:
            raise Invalid("there is no handler: give one by @agent.on(…), or read agent.messages()")
        self._open()
        window = self._settings.window or terms.concurrency
        with self.handlers.stopping() as stop, self._taking(window) as driver:
            summary, leaving = await serve(driver, self.handlers, terms, stop)
        if leaving:
            # Where it ends no more than a thread, the agent is not shown online, doing nothing.
            await self.close()
            raise exit_of(leaving)
        if not terms.failures_ok and not summary.is_clean:
            raise Failed(self.name, summary)
        return summary

    def stop(self) -> None:
        """Ends `run` and `drain` once they have finished what they have begun. From any thread."""
        self.handlers.stop()

    async def send(self, **fields: Unpack[Sending]) -> str:
        """Sends a message to an agent (or ``"*"``), to those that subscribed to a topic, to an environment, or to one of a
        group; gives back its id once it is committed. The fields and their meanings are those of `fields.Sending`. A send
        that the broker refuses by `slow_down` is sent again by itself.

        `Interrupted` says that the connection fell and nobody knows whether it was stored; with a `dedupe_key` it is
        sent again instead."""
        check("send", fields, Sending)
        frame = outgoing.message(Recipient.of(fields), **fields)
        return await self._open().calls.send(frame)

    async def request(self, **fields: Unpack[Question]) -> Reply:
        """Sends a question (`fields.Question`) and waits for its answer, which the other gives by `Message.reply`. Where
        several are asked, the first answer counts. `NoAnswer` says who did not answer within `timeout`; a question that was
        not pushed by then is not delivered any more. `Unreadable` is an answer that Python does not hold."""
        check("request", fields, Question)
        recipient = Recipient.of(fields)
        async with self._question(recipient, fields.pop("timeout", ANSWER_WAIT_SECONDS)) as asked:
            await asked.send(fields)
            if reply := await asked.next():
                if reply.fault:
                    raise reply.fault
                return reply
            raise NoAnswer(str(recipient), asked.seconds, asked.correlation_id)

    async def request_all(self, **fields: Unpack[Questions]) -> list[Reply]:
        """Sends a question (`fields.Questions`) to many and gives back the answers that came within `timeout`, in their
        order; sooner where there are `count` of them. None at all is an empty list. An answer that Python does not hold says
        so by its `fault`, and its `payload` raises it."""
        check("request_all", fields, Questions)
        replies: list[Reply] = []
        timeout, count = fields.pop("timeout", ANSWER_WAIT_SECONDS), fields.pop("count", None)
        async with self._question(Recipient.of(fields), timeout) as asked:
            await asked.send(fields)
            while (count is None or len(replies) < count) and (reply := await asked.next()):
                replies.append(reply)
        return replies

    def lock(self, key: str, ttl: Duration = LOCK_SECONDS) -> Locking:
        """Asks for the lock of a task that several agents could do: one gets it, the others are told who has it.

            async with agent.lock("daily-2026-11-24") as lock:
                if lock.held:
                    ...
                    await lock.done()

        The lock is held for `ttl` at a time, a second to an hour, and renewed by itself. At the end of the block the lock is
        given back, unless `done` was said: then nobody does the task again. ``lock = await agent.lock(key)`` keeps the lock
        until `Lock.release`. The lock is the agent's, whatever instance asks."""
        return self._locks.locking(self._open().calls.ask, key, ttl)

    async def subscribe(self, topic: str) -> None:
        """From when this returns, the agent gets the messages of topics that match, also those that are sent while it is
        away: ``county.*.done``, ``alerts.>``. They come to its own inbox."""
        await self._ask({"op": "subscribe", "topic": topic})

    async def unsubscribe(self, topic: str) -> None:
        """From when this returns, it does not."""
        await self._ask({"op": "unsubscribe", "topic": topic})

    async def dead_letters(self, inbox: str | None = None, after: int | None = None, limit: int | None = None) -> DeadLetters:
        """A page of dead letters, the oldest first: of this agent's, or of an inbox (that takes the role `orchestrator`);
        after this id, the last of the page before; at most `limit`, and never more than the broker's 100."""
        return await dead.page(self._ask, inbox, after, limit)

    async def redrive(self, *, ids: list[int] | None = None, inbox: str | None = None) -> Administered:
        """Makes dead letters ready again, those with these ids or all of an inbox; says how many were, and
        by `refused` which of an inbox the table of messages did not take."""
        return await dead.settle(self._ask, "redrive", ids, inbox)

    async def purge(self, *, ids: list[int] | None = None, inbox: str | None = None) -> Administered:
        """Throws dead letters away; says how many."""
        return await dead.settle(self._ask, "purge", ids, inbox)

    def _open(self) -> Driver:
        if self._driver is None:
            raise Closed
        if isinstance(self._driver.ended, Forked):
            raise self._driver.ended
        return self._driver

    async def _ask(self, frame: Frame) -> Frame:
        return await self._open().calls.ask(frame)

    @asynccontextmanager
    async def _question(self, recipient: Recipient, timeout: Duration) -> AsyncGenerator[_Asked, None]:
        ttl_ms = milliseconds("timeout", timeout)
        if not ttl_ms:
            raise Invalid("a question needs a timeout of at least a millisecond")
        driver = await self._answered()
        with driver.asking.question() as question:
            yield _Asked(driver, question, recipient, ttl_ms / 1000)

    async def _answered(self) -> Driver:
        """By whom answers come."""
        driver = self._open()
        if self._settings.group is None:
            return driver
        async with self._opening:
            if self._asker is None or self._asker.ended:
                asker = Driver(replace(self._settings, group=None))
                await asker.start()
                if self._driver is not driver:
                    await asker.close()
                    raise Closed
                self._asker = asker
            return self._asker


class _Asked:
    """A question under way, for so long."""

    def __init__(self, driver: Driver, question: Asking, recipient: Recipient, seconds: float) -> None:
        self.correlation_id = question.correlation_id
        self.seconds = seconds
        self._driver = driver
        self._question = question
        self._recipient = recipient
        self._until = asyncio.get_running_loop().time() + seconds

    async def send(self, fields: Addressed) -> None:
        message: dict[str, Any] = {"type": "query", **fields}
        message |= {
            "ttl": self.seconds,
            "correlation_id": self.correlation_id,
            "headers": outgoing.headers(fields.get("headers")) | {"reply_to": self._driver.settings.instance},
            # A question that is sent again, after the connection fell, stays one question.
            "dedupe_key": self.correlation_id,
        }
        frame = outgoing.message(self._recipient, **message)
        await self._driver.calls.send(frame, self.seconds)

    async def next(self) -> Reply | None:
        """The next answer; `None` once it is too late."""
        left = self._until - asyncio.get_running_loop().time()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._question.wait(), max(0.0, left))
        return self._question.take()

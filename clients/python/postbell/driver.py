"""The task that keeps an agent connected: reads, writes what it is asked to, and starts over when it must.

Everything here runs in one event loop; whoever asks changes the session at once and wakes the task to write.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from . import outgoing
from .asking import Asking
from .calls import Calls
from .connection import Connection, connect
from .errors import Closed, Interrupted, NoBroker, PostbellError, Refused
from .frames import Frame
from .hands import Hands
from .limits import ANSWER_AGAIN_MS, CLOSE_WAIT_SECONDS, WINDOW_MAX
from .message import Facts, Message
from .outgoing import Recipient
from .pace import Pace, spread
from .pending import Answer, Pending
from .session import Draining, Event, Pushed, Session
from .settings import Settings

logger = logging.getLogger("postbell")

FORGOTTEN = "the agent let go of the message without saying what became of it"


class Driver:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hands = Hands()
        self.pending = Pending()
        self.calls = Calls(self)
        self.asking = Asking()
        self.session: Session | None = None
        self.connected = asyncio.Event()
        #: Why there will be no further connection.
        self.ended: PostbellError | None = None
        #: Nothing is taken until somebody asks for messages.
        self.window = 0
        #: When the last message came, or the connection.
        self.heard_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._generation = 0
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects once; from then on the connection is kept up."""
        first = await connect(self.settings, self.window)
        self._task = asyncio.create_task(self._run(first), name="postbell")
        await self.connected.wait()

    async def close(self) -> None:
        """Writes what was settled, waits for its answers, says goodbye and ends."""
        if self._task is None:
            return
        self._is_closing = True
        self._wake.set()
        if self.session is None:
            self._task.cancel()
        _, late = await asyncio.wait({self._task}, timeout=CLOSE_WAIT_SECONDS)
        if late:
            self._task.cancel()
            await asyncio.wait({self._task})

    def set_window(self, window: int) -> None:
        """From now on at most so many deliveries at once. Answers come beside it."""
        if window != self.window:
            self.window = window
            self.say({"op": "window", "n": window})

    def say(self, frame: Frame) -> None:
        """To be written, if there is a connection: the next one begins with what holds then."""
        if self.session:
            self.session.say(frame)
            self._wake.set()

    def send(self, frame: Frame, answer: Answer) -> str:
        """A message, now or when there is a connection; gives back its ref."""
        if self.ended:
            raise self.ended
        if self.session is None:
            return self.pending.send(frame, answer, is_connected=False)[0]
        self._wake.set()
        return self.session.send(frame, answer)

    def ask(self, frame: Frame, answer: Answer) -> None:
        """A request; the answer is that it was interrupted where there is no connection."""
        if self.session is None:
            answer(self.ended or Interrupted())
            return
        self.session.ask(frame, answer)
        self._wake.set()

    def ack(self, message: Message, told: Callable[[bool], None] | None) -> None:
        """Handled. It is remembered until the broker says that it knows, so that it is not handed out again."""
        message_id = message.id
        if not self._settle(message):
            if told:
                told(False)
            return
        self.hands.handled(message_id)
        if self.session is None or message._generation != self._generation:
            logger.info("%s was handled after its connection fell: it comes again, to be acknowledged", message_id)
            if told:
                told(False)
            return
        if told:
            self.session.ack_alone(message._tag, self._ack_answer(message_id, told))
        else:
            self.session.ack(message._tag, message_id)
        self._wake.set()

    def _ack_answer(self, message_id: str, told: Callable[[bool], None]) -> Answer:
        def answer(result: Frame | PostbellError) -> None:
            self._acked([message_id], result)
            told(isinstance(result, dict))

        return answer

    def _acked(self, message_ids: list[str], result: Frame | PostbellError) -> None:
        if isinstance(result, dict):
            for message_id in message_ids:
                self.hands.acked(message_id)
        else:
            logger.info("the acks of %s may not have been taken: %s", message_ids[:10], result)

    def nack(self, message: Message, outcome: str, *, delay_ms: int | None, reason: str | None) -> bool:
        """Not handled. False where the connection it came by has fallen."""
        if not self._settle(message) or self.session is None or message._generation != self._generation:
            return False
        self.session.nack(message._tag, outcome, delay_ms=delay_ms, reason=reason)
        self._wake.set()
        return True

    async def reply(self, to: Facts, **more: Any) -> str:
        """An answer, to whoever asked: the agent, and of its instances the one that waits."""
        frame = outgoing.message(
            Recipient(to=to.sender),
            type="response",
            correlation_id=to.correlation_id,
            to_instance=to.reply_to,
            # Of each attempt it is the same answer.
            dedupe_key=f"answer-{to.id}",
            **more,
        )
        return await self.calls.send(frame)

    def _settle(self, message: Message) -> bool:
        """False if something became of it before."""
        was_settled, message._is_settled = message._is_settled, True
        self.hands.settled(message.id)
        return not was_settled

    def dropped(self, message_id: str, tag: int, generation: int) -> None:
        """A message was forgotten; from whatever thread that is noticed in."""

        def fail() -> None:
            self.hands.forgotten(message_id)
            if self.session and generation == self._generation:
                logger.warning("%s: %s", message_id, FORGOTTEN)
                self.session.nack(tag, "fail", reason=FORGOTTEN)
                self._wake.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(fail)

    def release_waiting(self) -> None:
        """What nobody has begun goes back, so that it can go elsewhere."""
        for message in self.hands.empty():
            self._release(message)

    async def _run(self, connection: Connection) -> None:
        try:
            pace = Pace()
            while True:
                pace.reset()
                wait = await self._live(connection)
                if self._is_closing:
                    break
                await asyncio.sleep(pace.next_wait() if wait is None else wait)
                connection = await self._again(pace)
            self._end(Closed())
        except PostbellError as fault:
            self._end(fault)
        except asyncio.CancelledError:
            self._end(Closed())
            raise
        except Exception as fault:
            logger.exception("the client failed")
            self._end(NoBroker(repr(fault)))

    def _end(self, error: PostbellError) -> None:
        self.ended = error
        self.pending.give_up(error)
        self.asking.end(error)
        self.hands.end(error)
        # Whoever waits for it is told why it never comes.
        self.connected.set()

    async def _again(self, pace: Pace) -> Connection:
        while True:
            try:
                return await connect(self.settings, self.window)
            except PostbellError as fault:
                if self._is_final(fault):
                    raise
                wait = pace.next_wait()
                if isinstance(fault, Refused) and fault.retry_seconds:
                    # Spread as well: many were told the same.
                    wait = max(wait, spread(fault.retry_seconds))
                # Some need somebody to look, though they may pass: a renewal that is half done, a network in between.
                logger.warning("%s; trying again in %.1f s", fault, wait)
                await asyncio.sleep(wait)

    async def _live(self, connection: Connection) -> float | None:
        """A session; gives back how long to wait before the next one, if the broker said. Raises what is final."""
        now = self._loop.time()
        session = Session(connection.welcome, self.pending, now, str(self.settings.address), self._acked)
        self.session, self.heard_at = session, now
        self._generation += 1
        self._wake.set()
        self.connected.set()
        reading = asyncio.create_task(self._read(connection, session))
        try:
            await self._write(connection, session, reading)
            connection.close()
            # Spread, so that a thousand agents do not arrive at the next broker together.
            return session.draining.within_seconds * random.random() if session.draining else None
        except PostbellError as fault:
            if isinstance(fault, NoBroker) or self._is_final(fault):
                raise
            logger.info("the connection fell: %s", fault)
            retry = fault.retry_seconds if isinstance(fault, Refused) else None
            return spread(retry) if retry else None
        finally:
            reading.cancel()
            connection.abort_unless_closed()
            self._fell()

    def _is_final(self, fault: PostbellError) -> bool:
        if not isinstance(fault, Refused):
            return False
        # Where nobody else can have our name, a hello of ours that was given up arrived after the one that followed it.
        return fault.is_final and not (fault.code == "taken_over" and self.settings.is_instance_ours)

    def _fell(self) -> None:
        """Its tags are void: what waits comes again, and what somebody has is known again by its id."""
        self.session = None
        if not self._is_closing:
            self.connected.clear()
        for message in self.hands.empty():
            message._is_settled = True
        self.pending.interrupted()

    async def _write(self, connection: Connection, session: Session, reading: asyncio.Task[None]) -> None:
        """Until there is nothing more to say."""
        while True:
            self._wake.clear()
            if out := session.take_output(self._loop.time()):
                await connection.write(out)
            if reading.done():
                return reading.result()
            if session.is_drained or (self._is_closing and self.pending.is_empty):
                session.say({"op": "bye"})
                return await connection.write(session.take_output(self._loop.time()))
            timer = self._loop.call_at(session.wake_at, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            session.tick(self._loop.time())

    async def _read(self, connection: Connection, session: Session) -> None:
        try:
            while True:
                data = await connection.read()
                for event in session.receive(data, self._loop.time()):
                    self._hear(session, event)
                self._wake.set()
        finally:
            self._wake.set()

    def _hear(self, session: Session, event: Event) -> None:
        match event:
            case Pushed():
                self._pushed(session, event)
            case Draining():
                logger.info("the broker stops; connecting again within %.1f s", event.within_seconds)
                self.release_waiting()
            case _:
                logger.warning("the broker refused something: %s", event.error)

    def _pushed(self, session: Session, event: Pushed) -> None:
        self.heard_at = self._loop.time()
        message = Message(self, event.frame, event.tag, self._generation)
        before = self.hands.taken(message.id)
        if self.hands.is_handled(message.id):
            # It was handled here when its connection fell.
            message._is_settled = True
            session.ack(event.tag, message.id)
        elif self.asking.is_answer(message):
            message._is_settled = True
            if not self.asking.answered(message):
                logger.info("%r came when nobody waited for it any more", message)
            session.ack(event.tag, message.id)
        elif before is not None and not before.is_settled:
            # Somebody is at it still: what becomes of it is said by the new tag.
            message._is_settled = True
            before._tag, before._generation = event.tag, self._generation
        elif self.window == 0 or len(self.hands) >= WINDOW_MAX:
            # Nobody takes messages any more, or the broker broke its window.
            self._release(message)
        else:
            self.hands.put(message)

    def _release(self, message: Message) -> None:
        # An answer would come again at once, whatever the window is.
        delay_ms = ANSWER_AGAIN_MS if message.type == "response" else None
        self.nack(message, "release", delay_ms=delay_ms, reason=None)

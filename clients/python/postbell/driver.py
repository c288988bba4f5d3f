"""The task that keeps an agent connected: reads, writes what it is asked to, and starts over when it must.

Everything here runs in one event loop; whoever asks changes the session at once and wakes the task to write.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from . import forks, outgoing
from .asking import Asking
from .calls import Calls
from .connection import Connection
from .connector import Connector
from .errors import Closed, Forked, Interrupted, PostbellError, Refused, Unreachable, Unreadable
from .frames import Frame
from .hands import Hands
from .limits import ANSWER_AGAIN_MS, CLOSE_WAIT_SECONDS, RECONNECT_MAX_SECONDS, WINDOW_MAX
from .message import Facts, Message, reason_of, shown
from .outgoing import Recipient
from .pace import Pace, spread
from .pending import Answer, Pending
from .repeats import Repeats, place_of
from .session import Draining, Event, Pushed, Session
from .settings import Settings
from .tally import Tally
from .watch import Watch

logger = logging.getLogger("postbell")

#: How long it is waited for that the broker has read what a process that ends wrote last.
FLUSH_SECONDS = 2.0
#: An outcome is written at once if nothing was for so long: a process that dies has then said what it had done.
WRITE_AGAIN_SECONDS = 0.005

#: Lines that nobody waits for gather for so long: acks while more messages are here, and what is begun.
GATHER_SECONDS = 0.001
#: The first messages of a connection, which are written as begun at once, each.
EAGER_MAX = 256

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
        self._connector = Connector(settings)
        self._connection: Connection | None = None
        self._written_at = 0.0
        self._eager = 0
        self._is_waking = False
        self._repeats = Repeats(logger)
        self._watch: Watch | None = None
        #: The counts of what became of messages; a caller that counts puts an empty one there.
        self.tally = Tally()
        forks.tell(self)

    def forked(self) -> None:
        """In the child: the connection and all that came by it are the parent's."""
        self.ended = Forked()
        self.session = self._connection = self._watch = None
        self.hands.give_up(self.ended)

    async def start(self) -> None:
        """Connects, or raises why not; from then on the connection is kept up."""
        first = await self._connector.connect(self.window)
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

    async def flush(self) -> None:
        """Until the broker has read what was written, for a process that ends; not for long."""
        if (session := self.session) is None:
            return
        ping = session.ping()
        self._wake.set()
        until = self._loop.time() + FLUSH_SECONDS
        while self.session is session and not session.is_heard(ping) and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def set_window(self, window: int) -> None:
        """From now on at most so many deliveries at once. Answers come beside it."""
        if window != self.window and not self.ended:
            self.window = window
            self.say({"op": "window", "n": window})
        if window and not self._watch and not self.ended:
            self._watch = Watch(self.settings.agent, self._deadline)

    def _deadline(self) -> float:
        """The seconds that a message in hand may take, or 0 if none is in hand. Called from another thread."""
        session = self.session
        return session.deadline_seconds if session and session.holds else 0.0

    def begin(self, message: Message) -> None:
        """A handler took this message. If no other is in hand, the broker blames the oldest unacknowledged one, so nothing
        is sent; otherwise the broker is told of each.

        `begun` must be written before a handler can kill the process. The first ones of a connection are written at once,
        because the message that killed the last process comes again soon. Later ones are written every few milliseconds,
        because each write costs as much as a message."""
        session = self.session
        if session is None:
            return
        if session.says_begun:
            self._begun([message])
        elif self.hands.taken_count > 1:
            self._begun(self.hands.all_taken())
        now = self._loop.time()
        if (self._eager > 0 or now - self._written_at > WRITE_AGAIN_SECONDS) and self._connection:
            self._eager, self._written_at = self._eager - 1, now
            self._connection.write_now(lambda: session.take_output(now))

    def _begun(self, messages: list[Message]) -> None:
        if self.session and (tags := [message.tag for message in messages if message.connection == self._generation]):
            self.session.begun(tags)
            self._wake_soon()

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
        """Handled. The message is remembered until the broker says that it knows, so that it is not handed out again."""
        message_id = message.id
        if not self._settle(message):
            if told:
                told(False)
            return
        self.tally.acked(message_id, message.attempt)
        self.hands.handled(message_id)
        if self.session is None or message.connection != self._generation:
            logger.info("%s was handled after its connection fell: it comes again, to be acknowledged", message_id)
            if told:
                told(False)
            return
        if told:
            self.session.ack_alone(message.tag, self._ack_answer(message_id, told))
            self._wake.set()
            return
        self.session.ack(message.tag, message_id)
        if not len(self.hands):
            self._wake.set()
        else:
            # There is more to do: the acks of what is done quickly are one line.
            self._wake_soon()

    def _wake_soon(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_later(GATHER_SECONDS, self._wake_now)

    def _wake_now(self) -> None:
        self._is_waking = False
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

    def nack(
        self, message: Message, outcome: str, *, delay_ms: int | None, reason: str | None, is_counted: bool = True
    ) -> bool:
        """Not handled. False where the connection it came by has fallen."""
        if not self._settle(message):
            return False
        if is_counted:
            self.tally.settled(message.id, outcome, message.attempt)
        if self.session is None or message.connection != self._generation:
            return False
        self.session.nack(message.tag, outcome, delay_ms=delay_ms, reason=reason)
        self._wake.set()
        return True

    def leave(self, message: Message, seconds: float) -> None:
        """Nobody here handles its kind: given back, for later."""
        if not message.is_settled:
            self.tally.left += 1
            self.nack(message, "release", delay_ms=round(seconds * 1000), reason=None, is_counted=False)

    async def reply(self, to: Facts, **more: Any) -> str:
        """An answer, to whoever asked: the agent, and of its instances the one that waits."""
        frame = outgoing.message(
            Recipient(to=to.sender),
            type="response",
            correlation_id=to.correlation_id,
            to_instance=to.reply_to,
            # Each attempt sends the same answer, so the key is the message's id.
            dedupe_key=f"answer-{to.id}",
            **more,
        )
        return await self.calls.send(frame)

    def check_ours(self) -> None:
        """Raises `Forked` in a child."""
        if isinstance(self.ended, Forked):
            raise self.ended

    def _settle(self, message: Message) -> bool:
        """False if something became of it before."""
        self.check_ours()
        self.hands.settled(message.id)
        return message.settle()

    def dropped(self, message_id: str, tag: int, generation: int) -> None:
        """A message was forgotten; from whatever thread that is noticed in."""

        def fail() -> None:
            self.hands.forgotten(message_id)
            self.tally.settled(message_id, "fail", 1)
            if self.session and generation == self._generation:
                logger.warning("%s: %s", message_id, FORGOTTEN)
                self.session.nack(tag, "fail", reason=FORGOTTEN)
                self._wake.set()

        # In a forked child the connection is the parent's, so nothing is sent.
        if not self._loop.is_closed() and not isinstance(self.ended, Forked):
            self._loop.call_soon_threadsafe(fail)

    def release_waiting(self) -> None:
        """Gives back the messages that no handler began, so another process can take them."""
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
            # A caller that takes messages must not believe that the agent was closed.
            address = str(self.settings.address)
            self._end(
                Closed() if self._is_closing else Unreachable(address, "the task that keeps the connection was cancelled")
            )
            raise

    def _end(self, error: PostbellError) -> None:
        self.ended = error
        self.pending.give_up(error)
        self.asking.end(error)
        self.hands.end(error)
        if self._watch:
            self._watch.end()
            self._watch = None
        # Wakes callers that wait for a connection; each is then told the reason.
        self.connected.set()

    async def _again(self, pace: Pace) -> Connection:
        while True:
            try:
                return await self._connector.connect(self.window)
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
            except Exception as fault:
                wait = pace.next_wait()
                self._repeats.warning(
                    place_of(fault), "connecting failed: %s; trying again in %.1f s", reason_of(fault), wait, fault=fault
                )
                await asyncio.sleep(wait)

    async def _live(self, connection: Connection) -> float | None:
        """A session; gives back how long to wait before the next one, if the broker said. Raises what is final."""
        now = self._loop.time()
        session = Session(connection.welcome, self.pending, now, str(self.settings.address), self._acked)
        self.session, self.heard_at, self._connection = session, now, connection
        self._generation += 1
        self._eager = EAGER_MAX
        self._wake.set()
        self.connected.set()
        reading = asyncio.create_task(self._read(connection, session))
        try:
            await self._write(connection, session, reading)
            connection.close()
            # Spread, so that a thousand agents do not arrive at the next broker together.
            return session.draining.within_seconds * random.random() if session.draining else None
        except PostbellError as fault:
            if self._is_final(fault):
                raise
            logger.info("the connection fell: %s", fault)
            retry = fault.retry_seconds if isinstance(fault, Refused) else None
            return spread(retry) if retry else None
        except Exception as fault:
            # A defect of ours is no reason to leave the mesh; nor to come back a thousand times a second.
            self._repeats.warning(place_of(fault), "the connection is made anew after %s", reason_of(fault), fault=fault)
            return spread(RECONNECT_MAX_SECONDS)
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
        """The connection's tags are void: messages that wait come again, and those in hand are known again by their ids."""
        self.session = self._connection = None
        if not self._is_closing:
            self.connected.clear()
        for message in self.hands.empty():
            message.settle()
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
                session.goodbye([message.tag for message in self.hands.all_taken() if message.connection == self._generation])
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
                    try:
                        self._hear(session, event)
                    except Exception as fault:
                        # One event that we stumble over is not the others' business.
                        self._stumbled(session, event, fault)
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

    def _stumbled(self, session: Session, event: Event, fault: Exception) -> None:
        self._repeats.warning(place_of(fault), "the client could not take a line: %s", reason_of(fault), fault=fault)
        if isinstance(event, Pushed):
            session.nack(event.tag, "fail", reason=f"the client failed: {reason_of(fault)}")

    def _pushed(self, session: Session, event: Pushed) -> None:
        self.heard_at = self._loop.time()
        if event.fault:
            return self._unreadable(session, event, event.fault)
        try:
            message = Message(self, event.frame, event.tag, self._generation)
        except Unreadable as fault:
            return self._unreadable(session, event, str(fault))
        before = self.hands.taken(message.id)
        if self.hands.is_handled(message.id):
            # The message was handled here when its connection fell.
            message.settle()
            session.ack(event.tag, message.id)
        elif self.asking.is_answer(message):
            message.settle()
            if not self.asking.answered(message):
                logger.info("%r came when nobody waited for it any more", message)
            session.ack(event.tag, message.id)
        elif before is not None and not before.is_settled:
            # Somebody is at it still: what becomes of it is said by the new tag.
            message.settle()
            before.tag, before.connection = event.tag, self._generation
            # On this connection the message need not be the oldest.
            self._begun([before])
        elif self.window == 0 or len(self.hands) >= WINDOW_MAX:
            # Nobody takes messages any more, or the broker broke its window.
            self._release(message)
        else:
            self.hands.put(message)
            if self._watch:
                self._watch.look()
        return None

    def _unreadable(self, session: Session, event: Pushed, fault: str) -> None:
        """A message that can never be handled here becomes a dead letter. A caller that waits for it as an answer is told."""
        reason = f"the Python client cannot read it: {fault}"
        session.nack(event.tag, "dead", reason=reason)
        frame = {key: value for key, value in event.frame.items() if isinstance(value, str)}
        message_id, kind, sender = frame.get("id", "?"), frame.get("type", "?"), frame.get("from", "?")
        self.tally.settled(message_id, "dead", 1)
        self.tally.kind(kind, "unreadable")
        asked = False
        try:
            answer = Facts(frame)
            asked = self.asking.is_answer(answer) and self.asking.answered(answer, fault)
        except Unreadable:
            pass
        self._repeats.warning(
            ("unreadable", fault),
            "message %s of type %s from %s is a dead letter%s: %s",
            shown(message_id),
            shown(kind),
            shown(sender),
            ", and whoever asked is told" if asked else "",
            reason,
        )

    def _release(self, message: Message) -> None:
        # An answer would come again at once, whatever the window is.
        delay_ms = ANSWER_AGAIN_MS if message.type == "response" else None
        self.nack(message, "release", delay_ms=delay_ms, reason=None, is_counted=False)

"""An agent: what a program holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from . import dead, settings
from .dead import DeadLetters
from .driver import Driver
from .errors import Closed, Invalid, PostbellError, Refused, TimedOut
from .frames import Frame, encode
from .handlers import Handlers, serve
from .limits import LINE_BYTES_MAX, SEND_WAIT_SECONDS, SENDS_MAX
from .message import Duration, Message, milliseconds, reason_of

H = TypeVar("H", bound=Callable[..., Any])

#: Where the broker does not say when to come again.
SLOW_DOWN_WAIT_SECONDS = 0.05


class Agent:
    """An agent's connection to a broker, kept up for as long as it is open.

    What is not given is read from the environment: POSTBELL_AGENT, POSTBELL_URL, POSTBELL_TOKEN (or POSTBELL_TOKEN_FILE),
    POSTBELL_CA, POSTBELL_PIN, POSTBELL_CLIENT_CERT, POSTBELL_CLIENT_KEY, POSTBELL_INSTANCE and ENVIRONMENT.

    It may be opened again after it was closed; it belongs to the event loop that it was opened in.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        window: int | None = None,
        instance: str | None = None,
        environment: str | None = None,
        heartbeat: float | None = None,
        ca: str | Path | None = None,
        pin: str | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
    ) -> None:
        self._settings = settings.read(
            name,
            url=url,
            token=token,
            ca=ca,
            pin=pin,
            client_cert=client_cert,
            client_key=client_key,
            environment=environment,
            instance=instance,
            window=window,
            heartbeat=heartbeat,
        )
        self._handlers = Handlers()
        self._driver: Driver | None = None
        self._room: asyncio.Semaphore | None = None
        self._takers = 0

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
        driver = Driver(self._settings)
        await driver.start()
        self._driver, self._room = driver, asyncio.Semaphore(SENDS_MAX)

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
        if driver is None:
            return
        driver.set_window(0)
        driver.release_waiting()
        for message in driver.hands.all_taken():
            # What is in hand when the agent falls over may be why.
            is_fault = isinstance(fault, Exception) and not isinstance(fault, PostbellError)
            outcome, reason = ("fail", reason_of(fault)) if fault and is_fault else ("release", None)
            driver.nack(message, outcome, delay_ms=None, reason=reason)
        await driver.close()

    async def messages(self, window: int | None = None) -> AsyncGenerator[Message, None]:
        """The messages, in the order in which the broker pushed them, for as long as the agent is open. Raises why the
        connection ended for good, such as `Refused` with the code `taken_over`.

        Until this is asked for the agent takes none. `window` is the most at once, handed out or waiting here: small where
        handling takes long, so that others can take what waits; 32 where nothing else was said."""
        with self._taking(self._settings.prefetch if window is None else window) as driver:
            try:
                while True:
                    message = await driver.hands.take()
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
        return self._handlers.on(*types)

    async def run(self, concurrency: int = 1) -> int:
        """Handles messages until `stop`, SIGTERM or SIGINT, then finishes what it has begun; says how many messages it
        took. Raises why the connection ended for good. The window is `concurrency`, unless the agent was given one."""
        return await serve(self, self._handlers, concurrency=concurrency, idle=None)

    async def drain(self, idle: float = 5.0, concurrency: int = 1) -> int:
        """For scheduled jobs: like `run`, and leaves when nothing came for `idle` seconds and nothing is being handled.
        Raises `Unreachable` where the broker is away for long."""
        return await serve(self, self._handlers, concurrency=concurrency, idle=idle)

    def stop(self) -> None:
        """Ends `run` and `drain` once they have finished what they have begun. Call it in the event loop."""
        self._handlers.stop()

    async def send(
        self,
        *,
        to: str | None = None,
        topic: str | None = None,
        environment: str | None = None,
        type: str = "data",
        payload: Any = None,
        priority: int = 5,
        delay: Duration | None = None,
        ttl: Duration | None = None,
        correlation_id: str | None = None,
        headers: dict[str, Any] | None = None,
        dedupe_key: str | None = None,
    ) -> str:
        """Sends a message to an agent (or ``"*"``), to those that subscribed to a topic, or to an environment; gives back
        its id once it is committed. What the broker refuses by `slow_down` is sent again by itself.

        `Interrupted` says that the connection fell and nobody knows whether it was stored; with a `dedupe_key` it is
        sent again instead."""
        if sum(address is not None for address in (to, topic, environment)) != 1:
            raise Invalid("a message needs one of to=, topic= and environment=")
        frame: Frame = {
            "op": "send",
            "to": to,
            "topic": topic,
            "environment": environment,
            "type": type,
            "priority": priority,
            "delay_ms": milliseconds("delay", delay),
            "ttl_ms": milliseconds("ttl", ttl),
            "correlation_id": correlation_id,
            "headers": headers,
            "dedupe_key": dedupe_key,
            "payload": payload,
        }
        # The broker would end the session.
        if (length := len(encode(frame))) > LINE_BYTES_MAX - 32:
            raise Invalid(f"the message has {length} bytes as JSON; with all its fields it may have {LINE_BYTES_MAX}")
        driver = self._open()
        assert self._room is not None
        async with self._room:
            answer, told = _answer()
            reference = driver.send(frame, told)
            try:
                return str((await _within(SEND_WAIT_SECONDS, answer))["id"])
            finally:
                driver.pending.forget(reference)

    async def subscribe(self, pattern: str) -> None:
        """From when this returns, the agent gets the messages of topics that match, also those that are sent while it is
        away: ``county.*.done``, ``alerts.>``."""
        await self._ask({"op": "subscribe", "topic": pattern})

    async def unsubscribe(self, pattern: str) -> None:
        """From when this returns, it does not."""
        await self._ask({"op": "unsubscribe", "topic": pattern})

    async def dead_letters(self, inbox: str | None = None, after: int | None = None) -> DeadLetters:
        """A page of dead letters, the oldest first: of this agent's, or of an inbox (that takes the role `orchestrator`);
        after this id, the last of the page before."""
        return await dead.page(self._ask, inbox, after)

    async def redrive(self, *, ids: list[int] | None = None, inbox: str | None = None) -> int:
        """Makes dead letters ready again, those with these ids or all of an inbox; says how many were."""
        return await dead.settle(self._ask, "redrive", ids, inbox)

    async def purge(self, *, ids: list[int] | None = None, inbox: str | None = None) -> int:
        """Throws dead letters away; says how many."""
        return await dead.settle(self._ask, "purge", ids, inbox)

    def _open(self) -> Driver:
        if self._driver is None:
            raise Closed
        return self._driver

    async def _ask(self, frame: Frame) -> Frame:
        async def asking() -> Frame:
            while True:
                await driver.connected.wait()
                answer, told = _answer()
                driver.ask(frame, told)
                try:
                    return await answer
                except Refused as refused:
                    if refused.code != "slow_down":
                        raise
                    await asyncio.sleep(refused.retry_seconds or SLOW_DOWN_WAIT_SECONDS)

        driver = self._open()
        return await _within(SEND_WAIT_SECONDS, asking())


def _answer() -> tuple[asyncio.Future[Frame], Callable[[Frame | PostbellError], None]]:
    answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

    def told(result: Frame | PostbellError) -> None:
        if answer.done():
            return
        if isinstance(result, PostbellError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    return answer, told


async def _within(seconds: float, answer: Awaitable[Frame]) -> Frame:
    try:
        return await asyncio.wait_for(answer, seconds)
    except asyncio.TimeoutError:
        raise TimedOut(seconds) from None

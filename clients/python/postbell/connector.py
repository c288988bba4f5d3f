"""How a connection is made: the socket, TLS, a question, the hello and the welcome.

The kernel of a frozen broker accepts connections, and a balancer may lead there. So the first line asks for a sign of life,
and the client writes the hello only to a broker that gave one. A question that is given up does nothing, however late the
question arrives, so the wait for the answer may be short. A hello that is given up may arrive after the next hello, and would
then take over from that session.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

from . import forks, frames
from .connection import Connection, fault_of
from .errors import Invalid, NoBroker, Refused, TimedOut, TlsFailed, Unreachable
from .limits import CONNECT_WAIT_SECONDS, HELLO_LINE_BYTES_MAX
from .patience import Patience
from .settings import Settings

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
T = TypeVar("T")

QUESTION = frames.encode({"op": "ping"})


class Silent(Exception):
    """Nobody answered the question."""


class Connector:
    """Makes the connections of one agent, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._patience = Patience()

    async def connect(self, window: int) -> Connection:
        """Connects, asks for a sign of life, and says hello."""
        line, trust = hello(self._settings, window), self._settings.trust
        # The context reads files, among them those of the system's roots.
        context = await asyncio.to_thread(trust.context) if self._settings.address.tls else None
        streams = await _within(CONNECT_WAIT_SECONDS, self._find(context))
        welcome = await _within(CONNECT_WAIT_SECONDS, self._say(streams, line, "welcome", frames.welcome))
        return Connection(self._settings, *streams, welcome)

    async def _find(self, context: ssl.SSLContext | None) -> Streams:
        """Asks on one connection after the other, since a balancer may lead each to another broker, until one answers."""
        while True:
            with suppress(Silent):
                return await self._ask(context)

    async def _ask(self, context: ssl.SSLContext | None) -> Streams:
        """A connection that answered the question."""
        wait, now = self._patience.wait, asyncio.get_running_loop().time
        try:
            if context is None:
                streams = await self._open(None)
                asked_at = now()
            else:
                # asyncio does not tell a TCP connect from the handshake after it: both are waited for, and both are measured.
                asked_at = now()
                streams = await asyncio.wait_for(self._open(context), wait)
            await asyncio.wait_for(self._say(streams, QUESTION, "pong", frames.pong), asked_at + wait - now())
        except asyncio.TimeoutError:
            self._patience.silent()
            raise Silent from None
        except Refused as refused:
            # An older broker knows no question and closes.
            if refused.code != "hello_expected":
                raise
            return await self._open(context)
        self._patience.answered(now() - asked_at)
        return streams

    async def _say(self, streams: Streams, line: bytes, wanted: str, read: Callable[[bytes], T]) -> T:
        """Writes the line and reads the answer; without a good one the connection is closed."""
        reader, writer = streams
        try:
            writer.write(line)
            return read(await self._line(reader, wanted))
        except BaseException:
            # Neither what was written nor TLS's goodbye is waited for: nobody may be there to take it.
            writer.transport.abort()
            raise

    async def _line(self, reader: asyncio.StreamReader, wanted: str) -> bytes:
        try:
            # A broker that refuses may close before it has read what was said: then its own words say why.
            line = await reader.readline()
        except ValueError as fault:
            # Longer than the reader's limit.
            raise NoBroker(f"it did not say {wanted}") from fault
        except OSError as fault:
            raise fault_of(self._settings, fault) from fault
        if not line.endswith(b"\n"):
            raise Unreachable(str(self._settings.address), f"it closed the connection before it said {wanted}")
        return line

    async def _open(self, context: ssl.SSLContext | None) -> Streams:
        address = self._settings.address
        try:
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        except OSError as fault:
            raise fault_of(self._settings, fault) from fault
        forks.guard(writer)
        if context is not None:
            peer: ssl.SSLObject = writer.get_extra_info("ssl_object")
            # Before the token is written.
            if reason := self._settings.trust.fault_of(peer.getpeercert(binary_form=True)):
                writer.transport.abort()
                raise TlsFailed(str(address), reason)
        return reader, writer


async def _within(seconds: float, work: Coroutine[None, None, T]) -> T:
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise TimedOut(seconds) from None


def hello(settings: Settings, window: int) -> bytes:
    """The line that opens a session."""
    line = frames.encode(
        frames.hello(
            settings.agent,
            settings.token,
            client=settings.client,
            window=window,
            instance=settings.instance,
            group=settings.group,
            heartbeat_ms=settings.heartbeat_ms,
            environment=settings.environment,
            capabilities=settings.capabilities,
            version=settings.version,
        )
    )
    if len(line) > HELLO_LINE_BYTES_MAX:
        raise Invalid(f"what the agent says of itself has {len(line)} bytes as JSON; it may have {HELLO_LINE_BYTES_MAX}")
    return line

"""One connection: the socket, TLS, the hello and the welcome."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from . import forks, frames
from .errors import Invalid, NoBroker, PostbellError, TimedOut, TlsFailed, Unreachable
from .limits import CONNECT_WAIT_SECONDS, HELLO_LINE_BYTES_MAX, WRITE_WAIT_SECONDS
from .settings import Settings
from .tls import sentence

READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class Connection:
    """An open session's two directions."""

    settings: Settings
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    welcome: frames.Welcome

    async def read(self) -> bytes:
        """What arrived; raises when nothing more will."""
        try:
            data = await self.reader.read(READ_BYTES)
        except OSError as fault:
            raise fault_of(self.settings, fault) from fault
        if not data:
            raise Unreachable(str(self.settings.address), "it closed the connection")
        return data

    async def write(self, data: bytes) -> None:
        """Hands all of it over; waits while the broker takes nothing, but not for ever."""
        try:
            self.writer.write(data)
            if self.writer.transport.get_write_buffer_size():
                await asyncio.wait_for(self.writer.drain(), WRITE_WAIT_SECONDS)
        except asyncio.TimeoutError:
            raise Unreachable(str(self.settings.address), "it takes nothing") from None
        except OSError as fault:
            raise fault_of(self.settings, fault) from fault

    def write_now(self, take: Callable[[], bytes]) -> None:
        """Hands over what there is before this returns, unless the broker is slow to take what was written before."""
        if not self.writer.is_closing() and not self.writer.transport.get_write_buffer_size() and (data := take()):
            self.writer.write(data)

    def close(self) -> None:
        """What was written goes out; nobody waits for it."""
        self.writer.close()

    def abort_unless_closed(self) -> None:
        """What was written need not go out."""
        if not self.writer.is_closing():
            self.writer.transport.abort()


async def connect(settings: Settings, window: int) -> Connection:
    """Connects and says hello."""
    try:
        return await asyncio.wait_for(_greet(settings, window), CONNECT_WAIT_SECONDS)
    except asyncio.TimeoutError:
        raise TimedOut(CONNECT_WAIT_SECONDS) from None


def hello(settings: Settings, window: int) -> bytes:
    """The first line."""
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


async def _greet(settings: Settings, window: int) -> Connection:
    reader, writer = await _open(settings)
    try:
        writer.write(hello(settings, window))
        # One that refuses may close before it has read the hello: then its own words say why.
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise Unreachable(str(settings.address), "it closed the connection before it said welcome")
        return Connection(settings, reader, writer, frames.welcome(line))
    except ValueError as fault:
        writer.close()
        # Longer than the reader's limit; a refusal of ours is a ValueError too.
        raise fault if isinstance(fault, PostbellError) else NoBroker("it did not say welcome") from fault
    except OSError as fault:
        writer.close()
        raise fault_of(settings, fault) from fault
    except BaseException:
        writer.close()
        raise


async def _open(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = settings.address
    # It reads files, those of the system's roots among them.
    context = await asyncio.to_thread(settings.trust.context) if address.tls else None
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except OSError as fault:
        raise fault_of(settings, fault) from fault
    forks.guard(writer)
    if context is not None:
        peer: ssl.SSLObject = writer.get_extra_info("ssl_object")
        # Before the token is written.
        if reason := settings.trust.fault_of(peer.getpeercert(binary_form=True)):
            writer.transport.abort()
            raise TlsFailed(str(address), reason)
    return reader, writer


def fault_of(settings: Settings, fault: OSError) -> PostbellError:
    """What the system says, as a sentence of ours."""
    if isinstance(fault, ssl.SSLError):
        return TlsFailed(str(settings.address), sentence(fault))
    # asyncio puts words of its own in the system's place; what is below zero is of the resolver's.
    reason = os.strerror(fault.errno) if fault.errno and fault.errno > 0 else fault.strerror
    return Unreachable(str(settings.address), reason or str(fault) or type(fault).__name__)

"""One open connection, and what the system says of its end."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from . import frames
from .errors import PostbellError, TlsFailed, Unreachable
from .limits import WRITE_WAIT_SECONDS
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
        """Reads bytes that arrived; raises when nothing more will."""
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
        """Ends the connection after written bytes went out; nobody waits for that."""
        self.writer.close()

    def abort_unless_closed(self) -> None:
        """Drops the connection; written bytes need not go out."""
        if not self.writer.is_closing():
            self.writer.transport.abort()


def fault_of(settings: Settings, fault: OSError) -> PostbellError:
    """The system's fault, as a sentence of ours."""
    if isinstance(fault, ssl.SSLError):
        return TlsFailed(str(settings.address), sentence(fault))
    # asyncio puts words of its own in the system's place; what is below zero is of the resolver's.
    reason = os.strerror(fault.errno) if fault.errno and fault.errno > 0 else fault.strerror
    return Unreachable(str(settings.address), reason or str(fault) or type(fault).__name__)

"""Handlers by the type of message."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from .errors import Invalid
from .message import Message
from .signals import on_signals

Handler = Callable[[Any], Any]
H = TypeVar("H", bound=Handler)

_ANY = ""


class Handlers:
    """The handlers, by the type of message."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._stops: set[Callable[[], object]] = set()
        #: The exception with which a task that a handler started ended the process.
        self.left: BaseException | None = None
        #: Makes the argument of a `def`: the message, or what stands for it in a thread.
        self.in_thread: Callable[[Message], Any] = lambda message: message

    def on(self, *types: str) -> Callable[[H], H]:
        """See `Agent.on`."""

        def register(handler: H) -> H:
            if not callable(handler) or inspect.isgeneratorfunction(_plain(handler)):
                raise Invalid(
                    f"{name_of(handler)} cannot handle messages: it must be a function that does it, without a yield"
                )
            if inspect.isasyncgenfunction(_plain(handler)):
                raise Invalid(
                    f"{name_of(handler)} cannot handle messages: an async def with a yield does nothing when called"
                )
            for kind in types or (_ANY,):
                if kind in self._by_type:
                    raise Invalid(f"there are two handlers for messages of type {kind or 'any'}")
                self._by_type[kind] = handler
            return handler

        return register

    def of(self, message: Message) -> Handler | None:
        """The handler of this message."""
        return self._by_type.get(message.type) or self._by_type.get(_ANY)

    @property
    def is_empty(self) -> bool:
        """Nobody handles anything."""
        return not self._by_type

    def stop(self) -> None:
        """Handlers that run finish what they have begun. May be called from any thread."""
        for stop in list(self._stops):
            stop()

    def leave(self, leaving: BaseException) -> None:
        """The process is to end: those that run finish what they have begun, and raise it."""
        self.left = self.left or leaving
        self.stop()

    def forget(self) -> None:
        """In a forked child: those that run are the parent's."""
        self._stops.clear()

    @contextmanager
    def stopping(self) -> Iterator[asyncio.Event]:
        """Set by `stop`, SIGTERM and SIGINT."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            # The loop may be gone, or the parent's.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

        self._stops.add(tell)
        try:
            with on_signals(tell):
                yield stop
        finally:
            self._stops.discard(tell)


def is_async(handler: Handler) -> bool:
    """Whether the handler runs in the event loop: also one that only wraps an `async def`, or has one as its call."""
    plain = _plain(handler)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(getattr(plain, "__call__", None))  # noqa: B004


def name_of(handler: object) -> str:
    """For people."""
    plain = _plain(handler)
    return str(getattr(plain, "__qualname__", None) or type(plain).__qualname__)


def _plain(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler

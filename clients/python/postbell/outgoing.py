"""Checks what is sent, as far as this side knows, so that a mistake is the caller's and not the session's end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Invalid
from .fields import Sending, Unpack
from .frames import Frame, encode
from .limits import LINE_BYTES_MAX
from .message import milliseconds

#: The most that a `ref` adds to a line.
_REF_BYTES = 32


@dataclass(frozen=True)
class Recipient:
    """Whom a message is for: just one of these is given."""

    to: str | None = None
    topic: str | None = None
    environment: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if sum(address is not None for address in (self.to, self.topic, self.environment, self.group)) != 1:
            raise Invalid("a message needs one of to=, topic=, environment= and group=")

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Recipient:
        """Taken out of the fields of a message."""
        return Recipient(*(fields.get(name) for name in ("to", "topic", "environment", "group")))

    def __str__(self) -> str:
        if self.to is not None:
            return "every agent" if self.to == "*" else f"the agent {self.to}"
        if self.topic is not None:
            return f"those that subscribed to {self.topic}"
        if self.environment is not None:
            return f"the agents in {self.environment}"
        return f"the group {self.group}"


def headers(given: dict[str, Any] | None) -> dict[str, Any]:
    """To be added to."""
    return {} if given is None else _object(given)


def _object(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Invalid(f"headers are a dict, not a {type(given).__name__}")
    return given


def message(recipient: Recipient, **fields: Unpack[Sending]) -> Frame:
    """A ``send``; whom it is for is in the recipient."""
    if fields.get("to_instance") is not None and recipient.to is None:
        raise Invalid("to_instance= names a process of the agent in to=")
    headers = fields.get("headers")
    frame: Frame = {"op": "send", **vars(recipient), "type": "data", "priority": 5, **fields}
    # Last by habit: who cannot read a payload reads the fields before it.
    payload = frame.pop("payload", None)
    frame |= {
        "delay_ms": milliseconds("delay", frame.pop("delay", None)),
        "ttl_ms": milliseconds("ttl", frame.pop("ttl", None)),
        "headers": headers if headers is None else _object(headers),
        "payload": payload,
    }
    # The broker would end the session.
    if (length := len(encode(frame))) > LINE_BYTES_MAX - _REF_BYTES:
        raise Invalid(f"the message has {length} bytes as JSON; with all its fields it may have {LINE_BYTES_MAX}")
    return frame

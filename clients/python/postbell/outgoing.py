"""What is sent: checked here as far as this side knows, so that a mistake is the caller's and not the session's end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import Invalid
from .frames import Frame, encode
from .limits import LINE_BYTES_MAX
from .message import Duration, milliseconds

#: What a `ref` adds to a line.
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


def message(
    recipient: Recipient,
    *,
    type: str,
    payload: Any,
    priority: int = 5,
    delay: Duration | None = None,
    ttl: Duration | None = None,
    correlation_id: str | None = None,
    headers: dict[str, Any] | None = None,
    dedupe_key: str | None = None,
    ordering_key: str | None = None,
    to_instance: str | None = None,
) -> Frame:
    """A ``send``."""
    if to_instance is not None and recipient.to is None:
        raise Invalid("to_instance= names a process of the agent in to=")
    frame: Frame = {
        "op": "send",
        "to": recipient.to,
        "topic": recipient.topic,
        "environment": recipient.environment,
        "group": recipient.group,
        "to_instance": to_instance,
        "type": type,
        "priority": priority,
        "delay_ms": milliseconds("delay", delay),
        "ttl_ms": milliseconds("ttl", ttl),
        "correlation_id": correlation_id,
        "headers": headers if headers is None else _object(headers),
        "dedupe_key": dedupe_key,
        "ordering_key": ordering_key,
        "payload": payload,
    }
    # The broker would end the session.
    if (length := len(encode(frame))) > LINE_BYTES_MAX - _REF_BYTES:
        raise Invalid(f"the message has {length} bytes as JSON; with all its fields it may have {LINE_BYTES_MAX}")
    return frame

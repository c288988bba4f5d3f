"""The keyword arguments that several methods take: each is written here, with its meaning, and nowhere else.

`Agent` and `SyncAgent` take them as ``**fields: Unpack[…]``. A type checker names a wrong keyword; so does `check`, at run
time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if sys.version_info >= (3, 11):
    from typing import Unpack as Unpack
elif TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:
    # Python 3.10 has none, and needs none: annotations are not evaluated.
    Unpack = None

if TYPE_CHECKING:
    from .message import Duration
    from .settings import Capabilities

#: The outcome of a message whose type nobody handles.
Unhandled = Literal["leave", "dead", "fail"]


class Given(TypedDict, total=False):
    """How an agent is connected; a field that is not given is read from the environment, where a variable has it."""

    #: ``tcp://host:7440`` or ``tcp+tls://host:7440`` (POSTBELL_URL).
    url: str | None
    #: From `postbell agent add` (POSTBELL_TOKEN, or the file POSTBELL_TOKEN_FILE).
    token: str | None
    #: The most messages at once.
    window: int | None
    #: A name for this process (POSTBELL_INSTANCE): a newer process of the same name takes over.
    instance: str | None
    #: The group whose messages it takes instead of its own (POSTBELL_GROUP).
    group: str | None
    #: Where it runs (ENVIRONMENT): in the registry from when it connects.
    environment: str | None
    #: The agent's abilities, a list or an object: in the registry too.
    capabilities: Capabilities | None
    #: The agent's own version: in the registry too.
    version: str | None
    #: Seconds.
    heartbeat: float | None
    #: A PEM file of the CA of the broker's certificate (POSTBELL_CA).
    ca: str | Path | None
    #: The SHA-256 of the broker's certificate (POSTBELL_PIN).
    pin: str | None
    #: A PEM file, where the broker asks for a certificate (POSTBELL_CLIENT_CERT).
    client_cert: str | Path | None
    #: And the file of its key (POSTBELL_CLIENT_KEY).
    client_key: str | Path | None


class Addressed(TypedDict, total=False):
    """Whom a message is for, just one of four, and what every message has."""

    #: An agent, or ``"*"`` for every agent.
    to: str | None
    #: The agents that subscribed to this topic.
    topic: str | None
    #: The agents of an environment.
    environment: str | None
    #: One agent of a group.
    group: str | None
    #: command, query, response, alert, heartbeat or data.
    type: str
    #: Anything that JSON holds.
    payload: Any
    #: 1 (highest) to 10; 5 where nothing is said.
    priority: int
    #: A JSON object that travels along.
    headers: dict[str, Any] | None


class Sending(Addressed, total=False):
    """The fields of `send`; the type is ``data`` where nothing is said."""

    #: The message is delivered no sooner.
    delay: Duration | None
    #: After so long it is not delivered any more.
    ttl: Duration | None
    #: The id that a question and its answers share.
    correlation_id: str | None
    #: A second message with the same key is the first one again.
    dedupe_key: str | None
    #: Messages to an inbox with the same key are handled one after the other.
    ordering_key: str | None
    #: The process of the agent in `to` that waits for an answer.
    to_instance: str | None


class Question(Addressed, total=False):
    """The fields of `request`; the type is ``query`` where nothing is said."""

    #: How long an answer is waited for: 30 s where nothing is said.
    timeout: Duration


class Questions(Question, total=False):
    """The fields of `request_all`."""

    #: So many answers are enough.
    count: int | None


class Serving(TypedDict, total=False):
    """How `run` handles messages."""

    #: ``leave``, the default, gives a message whose type has no handler back, uncounted; ``dead`` makes it a dead letter;
    #: ``fail`` fails the attempt.
    unhandled: Unhandled
    #: A stop waits so many seconds for what was begun: 30 where nothing is said.
    grace: float
    #: Whether a line at the end says what became of all.
    report: bool


class Draining(Serving, total=False):
    """How `drain` handles messages."""

    #: Messages that were not handled are only counted.
    failures_ok: bool


def check(method: str, given: Mapping[str, object], fields: Any) -> None:
    """Raises the `TypeError` that Python raises for a keyword that a method does not have."""
    for name in given:
        if name not in fields.__optional_keys__:
            known = ", ".join(sorted(fields.__optional_keys__))
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}; it takes {known}")

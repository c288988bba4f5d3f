"""The exceptions. The text of each is a sentence for people; the broker's refusals are in its own words."""

from __future__ import annotations

from typing import Final

# Refusals that connecting again would only repeat, or that say to stay away.
_FINAL: Final = frozenset(
    {
        "bad_field",
        "bad_json",
        "disabled",
        "hello_expected",
        "line_too_long",
        "plaintext_refused",
        "proto_unsupported",
        "taken_over",
        "unauthorized",
    }
)
_NEVER: Final = frozenset({"rejected", "forbidden", "unknown_op", "payload_too_large"})


class PostbellError(Exception):
    """The base of all exceptions here."""

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may succeed."""
        return False


class Invalid(PostbellError, ValueError):
    """A value cannot be sent, or a setting cannot be connected with."""


class Unreachable(PostbellError):
    """The broker cannot be reached."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"the broker at {address} cannot be reached: {reason}")
        self.address = address
        self.reason = reason

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may succeed."""
        return True


class TlsFailed(PostbellError):
    """TLS with the broker failed: most often its certificate is not trusted."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"TLS with the broker at {address} failed: {reason}")
        self.address = address
        self.reason = reason


class Refused(PostbellError):
    """The broker refused, with its sentence."""

    def __init__(self, code: str, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(f"{message} ({code})")
        #: A word for programs: PROTOCOL.md has them all.
        self.code = code
        #: The broker's sentence.
        self.message = message
        #: Not before this should it be tried again.
        self.retry_seconds = retry_seconds

    @property
    def is_final(self) -> bool:
        """Whether connecting again would only repeat it."""
        return self.code in _FINAL

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may succeed."""
        return not self.is_final and self.code not in _NEVER


class NoBroker(PostbellError):
    """The server that answers does not speak the protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"what answers is no Postbell broker: {reason}")


class Unreadable(PostbellError, ValueError):
    """A value arrived that Python does not hold; the text says which field, and why."""


class Forked(PostbellError):
    """The agent is the parent process's."""

    def __init__(self) -> None:
        super().__init__(
            "the agent was opened before this process was forked, and its connection is the parent's: open one here, by "
            "`connect()` or by an agent of its own"
        )


class Interrupted(PostbellError):
    """The connection fell before the answer came: what was asked may or may not have been done."""

    def __init__(self) -> None:
        super().__init__("the connection fell before the broker answered; it is not known whether it did what was asked")

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may succeed."""
        return True


class TimedOut(PostbellError, TimeoutError):
    """No answer of the broker's came in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the broker did not answer in {seconds:g} s")

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may succeed."""
        return True


class NoAnswer(PostbellError, TimeoutError):
    """The broker has the question, and nobody answered it in time."""

    def __init__(self, asked: str, seconds: float, correlation_id: str) -> None:
        super().__init__(f"no answer within {seconds:g} s from {asked} (correlation_id {correlation_id})")
        #: Whom it was asked of.
        self.asked = asked
        #: The question's.
        self.correlation_id = correlation_id

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may succeed."""
        return True


class LockLost(PostbellError):
    """A lock is not ours any more: another may do the task, or did."""

    def __init__(self, key: str, sentence: str | None = None) -> None:
        super().__init__(sentence or f"the lock {key} is not held any more: another may have it, or had it")
        self.key = key


class Closed(PostbellError):
    """The agent is not connected: closed, or not opened yet."""

    def __init__(self) -> None:
        super().__init__("the agent is closed; open it by `async with Agent(…)` or `connect()`")

"""Frames to bytes and back: no IO, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import salvage
from .errors import Invalid, NoBroker, Refused
from .limits import LINE_BYTES_MAX, LINE_DISCARD_MAX, PROTO, RETRY_SECONDS_MAX

#: A frame is a JSON object with an ``op``.
Frame = dict[str, Any]


def encode_json(what: str, value: object) -> str:
    """JSON text, or a sentence about ``what`` cannot be written as it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half a surrogate pair is no text.
        text.encode()
    except Exception as fault:
        # Whatever a value of the caller's raises while it is read is the caller's, and not the connection's end.
        raise Invalid(f"{what} cannot be written as JSON: {_sentence(fault)}") from fault
    return text


def _sentence(fault: Exception) -> str:
    if isinstance(fault, UnicodeEncodeError):
        return "it has half a surrogate pair, which is no text"
    if isinstance(fault, RecursionError):
        return "it is nested deeper than Python writes"
    return str(fault) or type(fault).__name__


def encode(frame: Mapping[str, Any]) -> bytes:
    """A line. Keys without a value are left out, as the protocol has them; a payload may well be null."""
    whole = {key: value for key, value in frame.items() if value is not None or key == "payload"}
    return encode_json(f"the {frame['op']}", whole).encode() + b"\n"


def decode(line: bytes) -> Frame:
    """A line, without its newline; raises a `ValueError` or a `RecursionError` where Python does not hold all of it."""
    text = line.decode()
    # `loads` guesses at the encoding and looks for spaces around, which takes a third of its time.
    frame, end = salvage.read(text)
    if end != len(text) and text[end:].strip():
        raise ValueError("there is more after the object")
    if not isinstance(frame, dict) or not isinstance(frame.get("op"), str):
        raise ValueError('it is not a JSON object with an "op"')
    return frame


class CutLine(bytes):
    """The beginning of a line that was too long."""


class LineSplitter:
    """Lines out of a byte stream, in whatever pieces it comes. One that is too long comes as a `CutLine`, for what its
    beginning says."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX, discard_max: int = LINE_DISCARD_MAX) -> None:
        # The line that is not whole yet, in the pieces it came in: a long one is put together once.
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._discarded = 0
        self._line_bytes_max = line_bytes_max
        self._discard_max = discard_max

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their newlines. Raises `NoBroker` where one does not end."""
        first, *lines = data.split(b"\n")
        self._pieces.append(first)
        self._pieces_bytes += len(first)
        is_cut = self._discarded > 0
        if lines:
            lines.insert(0, self._joined())
            rest = lines.pop()
            self._pieces, self._pieces_bytes, self._discarded = [rest], len(rest), 0
        if self._pieces_bytes > self._line_bytes_max:
            self._discard()
        if is_cut or max(map(len, lines), default=0) > self._line_bytes_max:
            return [self._fitting(line) for line in lines]
        return [line.removesuffix(b"\r") for line in lines]

    def _joined(self) -> bytes:
        line = b"".join(self._pieces)
        return CutLine(line[: self._line_bytes_max]) if self._discarded else line

    def _discard(self) -> None:
        kept = b"".join(self._pieces)[: self._line_bytes_max]
        self._discarded += self._pieces_bytes - len(kept)
        self._pieces, self._pieces_bytes = [kept], len(kept)
        if self._discarded > self._discard_max:
            raise NoBroker(f"a line has more than {self._discard_max} bytes, and does not end")

    def _fitting(self, line: bytes) -> bytes:
        if type(line) is CutLine:
            return line
        line = line.removesuffix(b"\r")
        return line if len(line) <= self._line_bytes_max else CutLine(line[: self._line_bytes_max])


@dataclass(frozen=True)
class Welcome:
    """The session exists, and these are its terms."""

    broker: str
    session: int
    heartbeat_seconds: float
    payload_bytes_max: int


def hello(agent: str, token: str, *, client: str, window: int, **more: object) -> Frame:
    """The line that opens a session."""
    return {"op": "hello", "proto": PROTO, "agent": agent, "token": token, "client": client, "window": window} | more


def pong(line: bytes) -> None:
    """The answer to the question before the hello, if it is a pong; raises what it is otherwise."""
    if _answer(line).get("op") != "pong":
        raise NoBroker("it did not say pong")


def welcome(line: bytes) -> Welcome:
    """The answer to the hello, if it is a welcome; raises what it is otherwise."""
    frame = _answer(line)
    limits, heartbeat, session = frame.get("limits"), seconds(frame, "heartbeat_ms"), frame.get("session")
    payload_bytes = limits.get("payload_bytes") if isinstance(limits, dict) else None
    is_welcome = frame.get("op") == "welcome" and type(session) is int and type(payload_bytes) is int
    if not is_welcome or not heartbeat:
        raise NoBroker("it did not say welcome")
    return Welcome(str(frame.get("broker")), session, heartbeat, payload_bytes)  # type: ignore[arg-type]


def _answer(line: bytes) -> Frame:
    try:
        frame = decode(line)
    except (ValueError, RecursionError):
        # A field that we do not need may be one that Python does not hold.
        frame, reason = salvage.salvage(line.strip())
        if reason:
            raise NoBroker(reason) from None
    if frame.get("op") == "error":
        raise refusal(frame)
    return frame


def refusal(frame: Frame) -> Refused:
    """An ``error`` as an exception."""
    retry = seconds(frame, "retry_ms")
    return Refused(_text(frame, "code"), _text(frame, "message"), None if retry is None else min(retry, RETRY_SECONDS_MAX))


def seconds(frame: Frame, key: str) -> float | None:
    """A field of milliseconds, in seconds; nothing where it is no such number."""
    value = frame.get(key)
    # No bool; and neither what no clock counts to nor what cannot become a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
        return None
    return value / 1000


def _text(frame: Frame, key: str) -> str:
    value = frame.get(key)
    return value if isinstance(value, str) else f"the broker's {key} cannot be read"

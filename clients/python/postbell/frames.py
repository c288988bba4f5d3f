"""Frames to bytes and back: no IO, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Invalid, NoBroker, Refused
from .limits import LINE_BYTES_MAX, PROTO

#: A frame is a JSON object with an ``op``.
Frame = dict[str, Any]


def encode_json(what: str, value: object) -> str:
    """JSON text, or a sentence about ``what`` cannot be written as it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half a surrogate pair is no text.
        text.encode()
    except (TypeError, ValueError, RecursionError) as fault:
        raise Invalid(f"{what} cannot be written as JSON: {fault}") from fault
    return text


def encode(frame: Mapping[str, Any]) -> bytes:
    """A line. Keys without a value are left out, as the protocol has them; a payload may well be null."""
    whole = {key: value for key, value in frame.items() if value is not None or key == "payload"}
    return encode_json(f"the {frame['op']}", whole).encode() + b"\n"


def decode(line: bytes) -> Frame:
    """A line of the broker's, without its newline."""
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError) as fault:
        raise NoBroker(f"a line is no JSON: {fault}") from fault
    if not isinstance(frame, dict) or not isinstance(frame.get("op"), str):
        raise NoBroker('a line is not a JSON object with an "op"')
    return frame


class LineSplitter:
    """Lines out of a byte stream, in whatever pieces it comes."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._line_bytes_max = line_bytes_max
        # How much was searched already, so that a long line in small pieces is searched once.
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their newlines."""
        self._buffer += data
        lines = []
        start = 0
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            self._check(end - start)
            lines.append(bytes(self._buffer[start:end]).removesuffix(b"\r"))
            start = self._searched = end + 1
        del self._buffer[:start]
        self._searched = len(self._buffer)
        self._check(len(self._buffer))
        return lines

    def _check(self, length: int) -> None:
        if length > self._line_bytes_max:
            raise NoBroker(f"a line is longer than {self._line_bytes_max} bytes")


@dataclass(frozen=True)
class Welcome:
    """The session exists, and these are its terms."""

    broker: str
    session: int
    heartbeat_seconds: float
    payload_bytes_max: int


def hello(agent: str, token: str, *, client: str, window: int, **more: object) -> Frame:
    """The first line of a session."""
    return {"op": "hello", "proto": PROTO, "agent": agent, "token": token, "client": client, "window": window} | more


def welcome(line: bytes) -> Welcome:
    """The answer to the hello, if it is a welcome; raises what it is otherwise."""
    frame = decode(line)
    if frame["op"] == "error":
        raise refusal(frame)
    try:
        assert frame["op"] == "welcome"
        heartbeat = int(frame["heartbeat_ms"]) / 1000
        limits = frame["limits"]
        return Welcome(str(frame["broker"]), int(frame["session"]), heartbeat, int(limits["payload_bytes"]))
    except (AssertionError, KeyError, TypeError, ValueError) as fault:
        raise NoBroker("it did not say welcome") from fault


def refusal(frame: Frame) -> Refused:
    """An ``error`` as an exception."""
    retry_ms = frame.get("retry_ms")
    retry = retry_ms / 1000 if isinstance(retry_ms, (int, float)) else None
    return Refused(str(frame.get("code")), str(frame.get("message")), retry)

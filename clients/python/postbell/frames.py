"""Frames to bytes and back: no IO, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Invalid, NoBroker, Refused
from .limits import LINE_BYTES_MAX, PROTO

_DECODER = json.JSONDecoder()

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
        text = line.decode()
        # `loads` guesses at the encoding and looks for spaces around, which takes a third of its time.
        frame, end = _DECODER.raw_decode(text)
        if end != len(text) and text[end:].strip():
            raise ValueError(f"extra data after column {end}")
    except (ValueError, RecursionError) as fault:
        raise NoBroker(f"a line is no JSON: {fault}") from fault
    if not isinstance(frame, dict) or not isinstance(frame.get("op"), str):
        raise NoBroker('a line is not a JSON object with an "op"')
    return frame


class LineSplitter:
    """Lines out of a byte stream, in whatever pieces it comes."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        # The line that is not whole yet, in the pieces it came in: a long one is put together once.
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._line_bytes_max = line_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their newlines."""
        first, *lines = data.split(b"\n")
        self._pieces.append(first)
        self._pieces_bytes += len(first)
        if lines:
            lines.insert(0, b"".join(self._pieces))
            rest = lines.pop()
            self._pieces, self._pieces_bytes = [rest], len(rest)
        if max([self._pieces_bytes, *map(len, lines)]) > self._line_bytes_max:
            raise NoBroker(f"a line is longer than {self._line_bytes_max} bytes")
        return [line.removesuffix(b"\r") for line in lines]


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

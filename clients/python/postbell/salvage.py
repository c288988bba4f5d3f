"""Reads what can still be read of a line that cannot be decoded as a whole: no IO.

A delivery whose payload Python cannot hold has a tag all the same, and an answer a ref. So the fields of the object are read
one by one: a field that cannot be read is `Unread` with the reason, and the others are what they are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .limits import DIGITS_MAX, NESTED_MAX, RECURSION_TRUSTED

#: Lists of objects are read object by object, so that one dead letter does not hide a page of them. No deeper.
_LEVELS = 3
_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r"[^,\]}\s]*")
#: A line with more brackets and strings is not looked through.
_STEPS_MAX = 100_000
# Runs of brackets are one step: a hostile line is made of them.
_MARKS = re.compile(r'"|\[+|\{+|\]+|\}+')
_ESCAPED_SURROGATE = re.compile(r"\\u[dD]")
_FOREIGN_BYTES = re.compile("[\udc80-\udcff]")


class Unfit(ValueError):
    """A value that Python does not hold. The text says which, and never quotes it."""


@dataclass(frozen=True)
class Unread:
    """Stands for a value that cannot be read."""

    reason: str


def real(text: str) -> float:
    """A number with a point or an exponent: not silently infinite."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Unfit("it has a number that is larger than a float can be")
    return value


def constant(name: str) -> float:
    """NaN and its like, which `json` would take."""
    raise Unfit(f"it has {name}, which is no JSON")


def whole(text: str) -> int:
    """A whole number, exact. Reading one takes the square of its length, so it is bounded whatever the interpreter allows."""
    digits = len(text.removeprefix("-"))
    if digits > DIGITS_MAX:
        raise Unfit(f"it has a number of {digits:,} digits, and at most {DIGITS_MAX:,} are read")
    return int(text)


#: For an interpreter that bounds the digits itself: the bound costs nothing then.
_QUICK = json.JSONDecoder(parse_float=real, parse_constant=constant)
_CAREFUL = json.JSONDecoder(parse_float=real, parse_constant=constant, parse_int=whole)
_digits_max: Callable[[], int] = getattr(sys, "get_int_max_str_digits", lambda: 0)


def read(text: str, *, tells_why: bool = False) -> tuple[Any, int]:
    """The JSON value that the text begins with, and where it ends; raises a `ValueError` or a `RecursionError`, with our own
    sentence where `tells_why`, which takes longer."""
    if sys.getrecursionlimit() > RECURSION_TRUSTED and text.count("[") + text.count("{") > NESTED_MAX:
        # The stack would overflow before Python notices.
        _check_depth(text)
    decoder = _QUICK if not tells_why and 0 < _digits_max() <= DIGITS_MAX else _CAREFUL
    value, end = decoder.raw_decode(text)
    if "\\u" in text and _ESCAPED_SURROGATE.search(text):
        _check_surrogates(value)
    return value, end


def reason_of(fault: Exception) -> str:
    """Why a value cannot be read: a sentence that quotes nothing of it."""
    if isinstance(fault, Unfit):
        return str(fault)
    if isinstance(fault, RecursionError):
        return "it is nested deeper than Python reads"
    if isinstance(fault, UnicodeError):
        return "it has bytes that are no UTF-8"
    if isinstance(fault, json.JSONDecodeError):
        return "it is no JSON"
    return "it has a number of more digits than this Python reads"


def salvage(line: bytes) -> tuple[dict[str, Any], str | None]:
    """The fields of the object, and what is wrong with the object itself: `None` where only fields are."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode(errors="surrogateescape")
    fields: dict[str, Any] = {}
    end = _object(text, _SPACE.match(text).end(), fields, _LEVELS)  # type: ignore[union-attr]
    if end is None or text[end:].strip():
        return fields, "the line is no whole JSON object"
    return fields, None


def first_unread(fields: dict[str, Any]) -> str | None:
    """Which field cannot be read, and why."""
    for name, value in fields.items():
        if isinstance(value, Unread):
            return f"{name if len(name) <= 40 and name.isidentifier() else 'a field'}: {value.reason}"
    return None


def _object(text: str, at: int, fields: dict[str, Any], levels: int) -> int | None:
    """Reads fields into the dict; gives back where the object ends, or nothing where it does not."""
    if text[at : at + 1] != "{":
        return None
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return at + 1
    while text[at : at + 1] == '"':
        end = _string_end(text, at)
        if end is None:
            return None
        name, _ = _value(text, at, end, 0)
        at = _skip(text, end)
        if text[at : at + 1] != ":":
            return None
        at = _skip(text, at + 1)
        after = _rest(text) if name == "payload" and _is_told(fields) else _value_end(text, at)
        value, _ = _value(text, at, after, levels - 1)
        fields[name if isinstance(name, str) else "?"] = value
        if after is None:
            return None
        at = _skip(text, after)
        if text[at : at + 1] == "}":
            return at + 1
        if text[at : at + 1] != ",":
            return None
        at = _skip(text, at + 1)
    return None


def _is_told(fields: dict[str, Any]) -> bool:
    """Fields after the payload are not needed. Looking for the payload's end takes a second for a megabyte of brackets."""
    names = ("tag", "id", "from", "type") if fields.get("type") != "response" else ("tag", "id", "from", "correlation_id")
    return fields.get("op") == "msg" and all(name in fields for name in names)


def _rest(text: str) -> int | None:
    """All but the object's own bracket."""
    end = len(text.rstrip())
    return end - 1 if text[end - 1 : end] == "}" else None


def _value(text: str, at: int, end: int | None, levels: int) -> tuple[Any, int | None]:
    """One value between these places, or why it cannot be read."""
    if end is None:
        return Unread("it does not end"), None
    part = text[at:end]
    try:
        if _FOREIGN_BYTES.search(part):
            raise Unfit("it has bytes that are no UTF-8")
        value, length = read(part, tells_why=True)
        if part[length:].strip():
            raise Unfit("it is no JSON")
    except (ValueError, RecursionError) as fault:
        listed = _listed(part, levels) if levels > 0 and part.startswith("[") else None
        return (Unread(reason_of(fault)) if listed is None else listed), end
    return value, end


def _listed(part: str, levels: int) -> list[dict[str, Any]] | None:
    """A list of objects, each of them salvaged; nothing where it is another list."""
    found: list[dict[str, Any]] = []
    at = _skip(part, 1)
    while part[at : at + 1] == "{":
        fields: dict[str, Any] = {}
        end = _object(part, at, fields, levels - 1)
        if end is None:
            return None
        found.append(fields)
        at = _skip(part, end)
        if part[at : at + 1] == "]":
            return found
        if part[at : at + 1] != ",":
            return None
        at = _skip(part, at + 1)
    return None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _string_end(text: str, at: int) -> int | None:
    """After the quote that ends the string that begins here."""
    while (at := text.find('"', at + 1)) >= 0:
        escapes = 0
        while text[at - 1 - escapes] == "\\":
            escapes += 1
        if escapes % 2 == 0:
            return at + 1
    return None


def _value_end(text: str, at: int) -> int | None:
    """Where the value that begins here ends, by its brackets and quotes alone."""
    first = text[at : at + 1]
    if first == '"':
        return _string_end(text, at)
    if first not in ("[", "{"):
        match = _PLAIN.match(text, at)
        # One that the line ends in may be half of a number: another's tag.
        return match.end() if match and at < match.end() < len(text) else None
    depth = steps = 0
    while (match := _MARKS.search(text, at)) and steps < _STEPS_MAX:
        mark, at, steps = match.group(), match.end(), steps + 1
        if mark[0] == '"':
            end = _string_end(text, match.start())
            if end is None:
                return None
            at = end
        elif mark[0] in "[{":
            depth += len(mark)
        elif len(mark) >= depth:
            return match.start() + depth
        else:
            depth -= len(mark)
    return None


def _check_depth(text: str) -> None:
    depth, at = 0, 0
    while match := _MARKS.search(text, at):
        mark, at = match.group(), match.end()
        if mark[0] == '"':
            at = _string_end(text, match.start()) or len(text)
        else:
            depth += len(mark) if mark[0] in "[{" else -len(mark)
            if depth > NESTED_MAX:
                raise Unfit(f"it is nested deeper than {NESTED_MAX:,}")


def _check_surrogates(value: object) -> None:
    """Half a surrogate pair is no text: whoever wrote it to a file or a database would fail."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unfit("it has half a surrogate pair, which is no text") from None

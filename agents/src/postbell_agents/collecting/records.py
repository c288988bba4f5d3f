"""Bytes to records, and records to rows. No IO."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..faults import Fault
from .sources import Source

#: A CSV field longer than this is a quote that was not closed.
FIELD_CHARACTERS_MAX = 1024 * 1024

csv.field_size_limit(FIELD_CHARACTERS_MAX)


class BadRecord(Fault):
    """A record is not what the source's rule says."""


def parse(source: Source, data: bytes) -> tuple[list[Mapping[str, Any]], str | None]:
    """The records of a document, and its next page's token or address."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise BadRecord(f"is not UTF-8: byte {fault.start}") from fault
    if source.format == "csv":
        return list(read_csv(io.StringIO(text, newline=""), source.delimiter)), None
    if source.format == "jsonl":
        return [
            _object(_json(line, f"line {n}"), f"line {n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()
        ], None
    document = _json(text, "the document")
    records = at(document, source.records) if source.records else document
    if not isinstance(records, list):
        raise BadRecord(f"{source.records or 'the document'} is no array")
    following = at(document, source.next_page) if source.next_page else None
    return [_object(r, f"record {n}") for n, r in enumerate(records, 1)], str(following) if following else None


def read_csv(lines: Iterable[str], delimiter: str) -> Iterator[Mapping[str, Any]]:
    """Records by the names in the first line; an empty field is a null, since CSV has no other."""
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        if reader.fieldnames is None:
            return
        for record in reader:
            if None in record or None in record.values():
                raise BadRecord(f"line {reader.line_num} has another number of fields than the first line")
            yield {name: value if value != "" else None for name, value in record.items()}
    except csv.Error as fault:
        raise BadRecord(f"line {reader.line_num} is no CSV: {fault}") from fault


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise BadRecord(f"{what} is no JSON: {fault}") from fault


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRecord(f"{what} is no object")
    return value


def at(value: Any, path: str) -> Any:
    """The value at `a.b`, or None. A field that has dots in its name is found too."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def rows(source: Source, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As the table has them, one for each key: of those with the same, the last."""
    by_key: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(records, 1):
        row = {column: at(record, field) for column, field in source.fields.items()}
        key = [row[column] for column in source.key]
        if any(value is None for value in key):
            raise BadRecord(f"record {number} has no {', '.join(source.key)}")
        by_key[json.dumps(key) if source.key else str(number)] = row
    return list(by_key.values())


def newest(source: Source, records: Iterable[Mapping[str, Any]], so_far: str | None) -> str | None:
    """The greatest cursor, numbers by value and texts (ISO times, say) by their characters."""
    values = [value for record in records if (value := at(record, source.cursor_field)) is not None]
    if so_far is not None:
        values.append(so_far)
    return str(max(values, key=_order)) if values else None


def _order(value: Any) -> tuple[int, float, str]:
    text = str(value)
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)

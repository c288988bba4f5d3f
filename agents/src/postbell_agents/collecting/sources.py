"""The sources, as the file has them, checked. No IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..alerts import SEVERITIES
from ..config import Section
from ..database import Table, columns, table

FORMATS = ("json", "jsonl", "csv")
SOURCES_MAX = 1000
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Source:
    """Where rows come from, and where they go."""

    name: str
    #: One of the two.
    url: str | None
    path: Path | None
    format: str
    table: Table
    #: The table's column to the record's field; a dot goes into an object.
    fields: Mapping[str, str]
    key: tuple[str, ...]
    every_seconds: float
    severity: str
    headers: Mapping[str, str]
    delimiter: str
    #: Where the array of records is in a JSON document; empty: the document.
    records: str
    #: Where the next page's token or address is in it; empty: there is one page. A token goes into `page_parameter`.
    next_page: str
    page_parameter: str
    #: The greatest value of this field so far goes into `cursor_parameter`.
    cursor_field: str
    cursor_parameter: str
    pages_max: int
    bytes_max: int
    batch_rows: int
    timeout_seconds: float
    #: Between two requests to the same host.
    interval_seconds: float

    @property
    def host(self) -> str:
        """Whom to be polite to."""
        return urlsplit(self.url).netloc if self.url else ""


def sources(file: Section) -> list[Source]:
    """Reads `[[sources]]`."""
    found = [_source(section) for section in file.sections("sources")]
    if not 0 < len(found) <= SOURCES_MAX:
        file.fault("sources", f"there must be from 1 to {SOURCES_MAX} of them, not {len(found)}")
    names = [source.name for source in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        file.fault("sources", f"two of them have the name {twice!r}, by which the state is kept")
    return found


def _source(section: Section) -> Source:
    url, path = section.text_or_none("url"), section.text_or_none("path")
    if (url is None) == (path is None):
        section.fault("url", "a source has a url or a path")
    if url and urlsplit(url).scheme not in ("http", "https"):
        section.fault("url", "must begin with https:// or http://")
    kind = section.choice("format", FORMATS, "csv" if path else "json")
    if path and kind != "csv":
        section.fault("format", "a file is CSV")
    delimiter = section.text("delimiter", ",")
    if len(delimiter) != 1:
        section.fault("delimiter", "is one character")
    source = Source(
        name=section.text("name"),
        url=url,
        path=Path(path) if path else None,
        format=kind,
        table=table(section, "table"),
        fields=_fields(section),
        key=columns(section, "key"),
        every_seconds=section.seconds("every_seconds", 3600.0, 0.0, 7 * DAY_SECONDS),
        severity=section.choice("severity", SEVERITIES, "medium"),
        headers=section.mapping("headers"),
        delimiter=delimiter,
        records=section.text("records", ""),
        next_page=section.text("next_page", ""),
        page_parameter=section.text("page_parameter", "page_token"),
        cursor_field=section.text("cursor_field", ""),
        cursor_parameter=section.text("cursor_parameter", "since"),
        pages_max=section.whole("pages_max", 1000, 1, 1_000_000),
        bytes_max=section.whole("bytes_max", 64 * 1024 * 1024, 1, 2**31),
        batch_rows=section.whole("batch_rows", 500, 1, 10_000),
        timeout_seconds=section.seconds("timeout_seconds", 30.0, 0.1, 600.0),
        interval_seconds=section.seconds("interval_seconds", 1.0, 0.0, DAY_SECONDS),
    )
    if missing := [column for column in source.key if column not in source.fields]:
        section.fault("key", f"{missing[0]!r} is none of the columns")
    if source.next_page and kind != "json":
        section.fault("next_page", "is in a JSON document; this source has another format")
    return source


def _fields(section: Section) -> dict[str, str]:
    """A list of columns whose fields are called the same, or a table of columns to fields."""
    if section.is_table("columns"):
        fields = section.mapping("columns")
    else:
        fields = {column: column for column in columns(section, "columns")}
    return fields or section.fault("columns", "is empty")

"""One run over one source: page by page, or batch by batch, each with the state that it leads to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from ..database import Connection
from ..faults import Fault
from . import http, records, store
from .sources import Source
from .state import Pace, State, after_last, after_page, is_same_host, request, retry_at

#: The answers of a source to a page's token that it has forgotten.
PAGE_IS_GONE = (400, 404, 410)


@dataclass
class Tally:
    """The counts of a run."""

    records: int = 0
    written: int = 0
    requests: int = 0


class Run:
    """See the module."""

    def __init__(self, connection: Connection, source: Source, pace: Pace, pause: Callable[[float], None]) -> None:
        self._connection = connection
        self._source = source
        self._pace = pace
        self._pause = pause
        self.tally = Tally()

    def go(self, state: State) -> None:
        """Goes on where the last one stopped. Raises `Fault`; what was taken until then is taken."""
        if self._source.path:
            self._file(state)
        else:
            self._pages(state)

    def _pages(self, state: State) -> None:
        source = self._source
        for _ in range(source.pages_max):
            answer = self._get(state)
            if answer.data is None:
                # As it was: nothing to write but when that was.
                self._write([], replace(state, not_before=None), is_finished=True)
                return
            of, following = records.parse(source, answer.data)
            cursor = state.cursor_next
            if source.cursor_field:
                cursor = records.newest(source, of, cursor if cursor is not None else state.cursor)
            if following is None:
                self._write(of, after_last(state, cursor, answer.etag, answer.last_modified), is_finished=True)
                return
            if following == state.page:
                raise Fault(f"the source names the page {following} as the one after itself")
            state = after_page(state, following, cursor)
            # Where there are more pages than a run may ask for, the next run goes on from here.
            self._write(of, state, is_finished=False)

    def _get(self, state: State) -> http.Answer:
        source = self._source
        self._pause(self._pace.wait(source.host, source.interval_seconds, time.monotonic()))
        self.tally.requests += 1
        try:
            return http.get(
                request(source, state),
                timeout_seconds=source.timeout_seconds,
                bytes_max=source.bytes_max,
                is_allowed=lambda url: is_same_host(source, url),
            )
        except http.NotNow as fault:
            # Kept, so that the next process is as patient.
            at = retry_at(fault.retry_after, datetime.now(timezone.utc))
            if at is not None:
                self._write([], replace(state, not_before=at.timestamp()), is_finished=False)
            raise
        except http.Refused as fault:
            if state.page is None or fault.status not in PAGE_IS_GONE:
                raise
            self._write([], replace(state, page=None, cursor_next=None), is_finished=False)
            raise Fault(f"{fault}: the page where the last run stopped is gone; the next run begins anew") from fault

    def _file(self, state: State) -> None:
        source = self._source
        assert source.path
        try:
            status = source.path.stat()
            if status.st_size > source.bytes_max:
                raise Fault(f"{source.path} has {status.st_size} bytes, over its bound of {source.bytes_max}")
            signature = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
            if signature != state.signature:
                state = replace(state, signature=signature, row=0, is_whole=False)
            if state.is_whole:
                self._write([], state, is_finished=True)
                return
            with source.path.open(encoding="utf-8-sig", newline="") as file:
                self._batches(records.read_csv(file, source.delimiter), state)
        except (OSError, UnicodeDecodeError) as fault:
            raise Fault(f"{source.path} cannot be read: {fault}") from fault

    def _batches(self, of: Iterator[Mapping[str, Any]], state: State) -> None:
        for _ in islice(of, state.row):
            pass
        while batch := list(islice(of, self._source.batch_rows)):
            state = replace(state, row=state.row + len(batch))
            self._write(batch, state, is_finished=False)
        self._write([], replace(state, is_whole=True), is_finished=True)

    def _write(self, of: list[Mapping[str, Any]], state: State, *, is_finished: bool) -> None:
        rows = records.rows(self._source, of)
        with self._connection.transaction():
            written = store.write(self._connection, self._source, rows)
            store.save(self._connection, self._source, state, is_finished=is_finished)
        self.tally.records += len(of)
        self.tally.written += written

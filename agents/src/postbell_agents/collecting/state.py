"""Where the agent is with a source, and what follows from what came. No IO: the time is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from .sources import Source

#: A source that asks for more is asked again after this.
RETRY_AFTER_MAX = timedelta(days=1)
#: Seconds after the first failure, and at most.
FAILED_WAIT = 30.0
FAILED_WAIT_MAX = 3600.0


@dataclass(frozen=True)
class State:
    """As the table keeps it; a field that an older version does not know is left out by it."""

    #: Marks of the last document that was taken whole: by them the source says whether there is another by now.
    etag: str | None = None
    last_modified: str | None = None
    #: The greatest cursor of all runs that ended, and of the one under way.
    cursor: str | None = None
    cursor_next: str | None = None
    #: The page that comes next in the run under way.
    page: str | None = None
    #: The file that was read: which one it was, how many of its rows are taken, and whether that is all.
    signature: str | None = None
    row: int = 0
    is_whole: bool = False
    #: Seconds since 1970; the source asked for it.
    not_before: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The values that are worth keeping."""
        return {name: value for name, value in asdict(self).items() if value not in (None, 0)}

    @staticmethod
    def of(values: dict[str, Any] | None) -> State:
        """From the table."""
        known = State.__dataclass_fields__
        return State(**{name: value for name, value in (values or {}).items() if name in known})


@dataclass(frozen=True)
class Request:
    """The request to make next."""

    url: str
    headers: dict[str, str]


def request(source: Source, state: State) -> Request:
    """The next request of a run."""
    assert source.url
    headers = dict(source.headers)
    url = source.url
    if state.cursor is not None and source.cursor_field:
        url = _with(url, source.cursor_parameter, state.cursor)
    if state.page is None:
        # Only of a whole document is it known what it was.
        if state.etag:
            headers["If-None-Match"] = state.etag
        if state.last_modified:
            headers["If-Modified-Since"] = state.last_modified
    elif state.page.startswith(("http://", "https://", "/", "?")):
        url = urljoin(source.url, state.page)
    else:
        url = _with(url, source.page_parameter, state.page)
    return Request(url, headers)


def is_same_host(source: Source, url: str) -> bool:
    """A page elsewhere would get the headers, and with them what is secret."""
    assert source.url
    return urlsplit(url)[:2] == urlsplit(source.url)[:2]


def _with(url: str, parameter: str, value: str) -> str:
    parts = urlsplit(url)
    query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k != parameter]
    return urlunsplit(parts._replace(query=urlencode([*query, (parameter, value)])))


def after_page(state: State, page: str, cursor: str | None) -> State:
    """A page was taken, and another follows."""
    return replace(state, page=page, cursor_next=cursor, not_before=None)


def after_last(state: State, cursor: str | None, etag: str | None, last_modified: str | None) -> State:
    """The run is done. Where there were pages, what one of them was says nothing of all."""
    is_whole = state.page is None
    return replace(
        state,
        page=None,
        cursor=cursor or state.cursor,
        cursor_next=None,
        etag=etag if is_whole else None,
        last_modified=last_modified if is_whole else None,
        not_before=None,
    )


def retry_at(header: str | None, now: datetime) -> datetime | None:
    """When a `Retry-After` allows the next request: seconds, or a date."""
    if not header:
        return None
    text = header.strip()
    if text.isdecimal() and len(text) < 10:
        at = now + timedelta(seconds=int(text))
    else:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=timezone.utc)
    return min(at, now + RETRY_AFTER_MAX)


class Pace:
    """When each host, and each source that failed, may be asked again."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

        self._failures: dict[str, tuple[int, float]] = {}

    def failed(self, source: str, now: float) -> None:
        """A run over this source failed: the next one waits, longer after each."""
        count = self._failures.get(source, (0, 0.0))[0] + 1
        self._failures[source] = (count, now + min(FAILED_WAIT_MAX, FAILED_WAIT * 2 ** min(count - 1, 16)))

    def worked(self, source: str) -> None:
        """The source did not fail."""
        self._failures.pop(source, None)

    def is_resting(self, source: str, now: float) -> bool:
        """Whether it failed not long ago."""
        return now < self._failures.get(source, (0, now))[1]

    def wait(self, host: str, interval_seconds: float, now: float) -> float:
        """How long to wait before the request that is made then."""
        at = max(now, self._next.get(host, now))
        self._next[host] = at + interval_seconds
        return at - now

"""One request: bounded in time and in size, and honest about who asks."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..faults import Fault
from .state import Request

USER_AGENT = f"postbell-collecting/{__version__}"
#: A source that drips is left after so many of its timeouts.
WHOLE_TIMEOUTS = 10
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """The answer of a source; `data` is None if nothing changed since the last time."""

    data: bytes | None
    etag: str | None
    last_modified: str | None


class Refused(Fault):
    """The source will not."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the source answered {status} {reason}")
        self.status = status


class NotNow(Fault):
    """The source asks for patience."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"the source answered {status}: not now")
        self.retry_after = retry_after


class _SameHost(urllib.request.HTTPRedirectHandler):
    # urllib passes every header on to wherever it is sent, Authorization too.
    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not self._is_allowed(newurl):
            raise Fault(f"the source redirects to another host, {newurl}: give that as its url")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def get(request: Request, *, timeout_seconds: float, bytes_max: int, is_allowed: Callable[[str], bool]) -> Answer:
    """Raises `NotNow`, or `Fault`."""
    if not is_allowed(request.url):
        raise Fault(f"the next page is on another host, {request.url}")
    # Only what a web server is asked by: no file:, no ftp:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameHost(is_allowed),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
    deadline = time.monotonic() + timeout_seconds * WHOLE_TIMEOUTS
    try:
        with opener.open(urllib.request.Request(request.url, headers=headers), timeout=timeout_seconds) as answer:
            data = _read(answer, bytes_max, deadline)
            return Answer(data, answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
    except urllib.error.HTTPError as fault:
        with fault:
            if fault.code == 304:
                return Answer(None, None, None)
            if fault.code in (429, 503):
                raise NotNow(fault.code, fault.headers.get("Retry-After")) from fault
            raise Refused(fault.code, fault.reason) from fault
    except (OSError, http.client.HTTPException) as fault:
        raise Fault(f"the source cannot be reached: {getattr(fault, 'reason', None) or fault}") from fault


def _read(answer: Any, bytes_max: int, deadline: float) -> bytes:
    data = bytearray()
    while chunk := answer.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > bytes_max:
            raise Fault(f"the source gives more than {bytes_max} bytes")
        if time.monotonic() > deadline:
            raise Fault(f"the source gave {len(data)} bytes and did not end in time")
    if answer.length:
        # A list that was cut off would be a shorter one that looks whole.
        raise Fault(f"the source ended {answer.length} bytes early")
    return bytes(data)

"""Tells whole once what happens again and again, and then in a line a minute: no log is filled by one message that comes
again."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Hashable

from .limits import REPEAT_SECONDS, REPEATS_MAX, TRACEBACKS_MAX


class Repeats:
    """Counts by what is the same."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        # When it was last told, and how often it happened since.
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        self._minute = 0.0
        self._whole = 0

    def warning(self, key: Hashable, text: str, *details: object, fault: BaseException | None = None) -> None:
        """Logs it, with the traceback of `fault` the first time; or counts it."""
        now = time.monotonic()
        told_at, since = self._seen.pop(key, (None, 0))
        is_told = told_at is None or now - told_at >= REPEAT_SECONDS
        self._seen[key] = (now, 0) if is_told or told_at is None else (told_at, since + 1)
        if len(self._seen) > REPEATS_MAX:
            self._seen.popitem(last=False)
        if not is_told:
            return
        if since:
            text, details = f"{text} (and %d times before, not logged)", (*details, since)
        is_whole = fault is not None and told_at is None and self._may_be_whole(now)
        self._logger.warning(text, *details, exc_info=fault if is_whole else None)

    def _may_be_whole(self, now: float) -> bool:
        if now - self._minute >= REPEAT_SECONDS:
            self._minute, self._whole = now, 0
        self._whole += 1
        return self._whole <= TRACEBACKS_MAX


def place_of(fault: BaseException) -> tuple[object, ...]:
    """Where it was raised, and what it is: the same failure has the same place."""
    trace, line, code = fault.__traceback__, 0, None
    while trace is not None:
        line, code, trace = trace.tb_lineno, trace.tb_frame.f_code, trace.tb_next
    return (type(fault), code, line)

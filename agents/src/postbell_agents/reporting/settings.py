"""The sinks of the file, checked."""

from __future__ import annotations

from datetime import time, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..alerts import SEVERITIES
from ..config import Section
from .outlet import Terms
from .sinks import File, Mail, Sink, Webhook

KINDS = ("webhook", "mail", "file")
SINKS_MAX = 20


def sinks(file: Section) -> list[tuple[Terms, Sink]]:
    """Reads `[[sinks]]`. One of them must be required, or nothing would keep an alert that none of them takes."""
    found = [(_terms(section), _sink(section)) for section in file.sections("sinks")]
    if not 0 < len(found) <= SINKS_MAX:
        file.fault("sinks", f"there must be from 1 to {SINKS_MAX} of them, not {len(found)}")
    if not any(terms.is_required and not terms.rank_min for terms, _ in found):
        file.fault("sinks", 'one of them must have required = true and the severity "low"')
    return found


def _terms(section: Section) -> Terms:
    rank = SEVERITIES.index(section.choice("severity", SEVERITIES, "low"))
    urgent = section.choice("urgent", (*SEVERITIES, "none"), "critical")
    return Terms(
        name=section.text("name"),
        is_required=section.flag("required", True),
        rank_min=rank,
        takes_summary=section.flag("summary", True),
        digest_seconds=section.seconds("digest_seconds", 10.0, 0.0, 3600.0),
        digest_max=section.whole("digest_max", 100, 1, 1000),
        urgent_rank=len(SEVERITIES) if urgent == "none" else SEVERITIES.index(urgent),
        rate_count=section.whole("rate_count", 30, 0, 100_000),
        rate_seconds=section.seconds("rate_seconds", 3600.0, 1.0, 86_400.0),
        tries=section.whole("tries", 4, 1, 20),
        retry_base_seconds=section.seconds("retry_seconds", 1.0, 0.01, 60.0),
    )


def _sink(section: Section) -> Sink:
    match section.choice("kind", KINDS):
        case "webhook":
            url = section.text("url")
            if not url.startswith(("http://", "https://")):
                section.fault("url", "must begin with https:// or http://")
            return Webhook(
                url=url,
                headers=section.mapping("headers"),
                timeout_seconds=section.seconds("timeout_seconds", 10.0, 0.1, 300.0),
                format=section.choice("format", ("json", "text"), "json"),
            )
        case "mail":
            return _mail(section)
        case _:
            return File(Path(section.text("path")))


def _mail(section: Section) -> Mail:
    tls = section.choice("tls", ("offered", "starttls", "smtps"), "offered")
    to = section.texts("to", None)
    if not to:
        section.fault("to", "is empty")
    for address in (*to, sender := section.text("from")):
        if "@" not in address or any(ord(c) < 32 for c in address):
            section.fault("to", f"{address!r} is no address")
    return Mail(
        host=section.text("host"),
        port=section.whole("port", 465 if tls == "smtps" else 587, 1, 65_535),
        sender=sender,
        to=to,
        username=section.text_or_none("username"),
        password=section.text_or_none("password"),
        tls=tls,
        ca=section.text_or_none("ca"),
        timeout_seconds=section.seconds("timeout_seconds", 20.0, 0.1, 300.0),
    )


def daily(section: Section) -> tuple[time | None, tzinfo]:
    """When the summary is due, and where; None: never."""
    zone = section.text("zone", "UTC")
    at = section.text_or_none("at")
    try:
        # A small container has no zones at all, and this one needs none.
        where = timezone.utc if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        section.fault("zone", f"{zone!r} is no time zone that this machine knows; `pip install tzdata` brings all there are")
    try:
        return (time.fromisoformat(at) if at else None), where
    except ValueError:
        section.fault("at", f"must be a time of day as 07:00, not {at!r}")

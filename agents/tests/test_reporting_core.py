"""Digest, rate, texts and times without IO."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from postbell_agents.config import Section
from postbell_agents.faults import ConfigFault
from postbell_agents.reporting.alert import Alert, body, headline, read
from postbell_agents.reporting.digest import Digest, Rate, backoff
from postbell_agents.reporting.settings import daily, sinks
from postbell_agents.reporting.sinks import Mail, report
from postbell_agents.reporting.summary import due_day


def alert(severity: str, text: str = "it burns", n: int = 1) -> Alert:
    return Alert(f"m{n}", severity, "agent", f"alerts.{severity}", f"2026-01-0{n}T00:00:00+00:00", text, {})


def test_a_digest_gathers_from_the_first_one_on() -> None:
    digest: Digest[int] = Digest(10, 3, lambda _: False)
    assert digest.due_at is None and digest.take(0) == []
    digest.add(1, 100)
    digest.add(2, 105)
    assert digest.due_at == 110 and digest.take(109.9) == []
    assert digest.take(110) == [1, 2]
    assert digest.due_at is None and len(digest) == 0


def test_a_digest_is_due_at_once_when_it_is_full_or_when_something_is_urgent() -> None:
    digest: Digest[int] = Digest(10, 2, lambda n: n > 8)
    digest.add(1, 0)
    digest.add(9, 1)
    digest.add(2, 1)
    assert digest.take(1) == [1, 9]
    assert digest.due_at == 1 and digest.take(1) == [2]
    digest.add(3, 2)
    digest.add(4, 3)
    assert digest.take(3) == [3, 4]


def test_a_rate_lets_a_burst_pass_and_then_one_at_a_time() -> None:
    rate = Rate(3, 60)
    for _ in range(3):
        assert rate.wait(0) == 0
        rate.take(0)
    assert rate.wait(0) == 20
    assert rate.wait(15) == pytest.approx(5)
    assert rate.wait(20) == pytest.approx(0)
    rate.take(20)
    assert rate.wait(20) == pytest.approx(20)
    # The rate does not save up for more than a burst.
    for _ in range(3):
        assert rate.wait(10_000) == 0
        rate.take(10_000)
    assert rate.wait(10_000) == 20


def test_no_rate_is_no_limit() -> None:
    rate = Rate(0, 60)
    rate.take(0)
    assert rate.wait(0) == 0


def test_waits_grow_up_to_a_bound() -> None:
    assert [backoff(n) for n in (1, 2, 3, 7, 1000)] == [1, 2, 4, 60, 60]


def test_an_alert_is_told_whatever_it_says_of_itself() -> None:
    whole = read("m", "sender", "alerts.low", "t", {"severity": "critical", "message": "hot", "agent_id": "oven"})
    assert (whole.severity, whole.source, whole.text) == ("critical", "oven", "hot")
    by_topic = read("m", "sender", "alerts.low", "t", {"n": 1})
    assert (by_topic.severity, by_topic.source, by_topic.text) == ("low", "sender", "{'n': 1}")
    assert read("m", "sender", "elsewhere", "t", None).severity == "high"
    ended = read("m", "s", "alerts.resolved", "t", {"severity": "low", "message": "hot", "status": "resolved"})
    assert ended.text == "resolved: hot"


def test_many_are_told_in_the_order_of_their_urgency() -> None:
    many = [alert("low", n=1), alert("critical", "two\nlines", n=3), alert("critical", "first", n=2)]
    assert headline(many) == "3 alerts: 2 critical, 1 low"
    assert [line.split(": ", 1)[1] for line in body(many).splitlines()] == ["first", "two lines", "it burns"]
    assert headline(many[:1]) == "low: it burns"


def test_a_report_is_known_by_what_is_in_it() -> None:
    assert report([alert("low", n=1)]).key == report([alert("low", "other words", n=1)]).key
    assert report([alert("low", n=1)]).key != report([alert("low", n=2)]).key


def test_a_mail_cannot_be_given_headers_by_an_alert() -> None:
    mail = Mail("h", 25, "Postbell <p@example.com>", ("a@x.org", "b@x.org"), None, None, "offered", None, 1)
    composed = mail.compose(report([alert("high", "x\r\nBcc: everybody@example.com")]))
    assert composed["Subject"] == "[postbell] high: x Bcc: everybody@example.com"
    assert (composed["To"], composed["Bcc"]) == ("a@x.org, b@x.org", None)
    assert composed["Message-ID"].endswith("@example.com>")


def test_a_summary_is_due_from_its_time_on() -> None:
    zone = ZoneInfo("America/New_York")
    at, _ = daily(Section({"at": "07:00", "zone": "America/New_York"}, ""))
    assert at == time(7)
    assert due_day(datetime(2026, 3, 8, 6, 59, tzinfo=zone), time(7)) is None
    assert due_day(datetime(2026, 3, 8, 7, 0, tzinfo=zone), time(7)) == date(2026, 3, 8)
    for values in ({"at": "7"}, {"at": "25:00"}, {"zone": "Mars/Base"}):
        with pytest.raises(ConfigFault):
            daily(Section(values, ""))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "file", "path": "x", "required": False}, "one of them must have required = true"),
        ({"kind": "file", "path": "x", "severity": "high"}, "one of them must have required = true"),
        ({"kind": "webhook", "url": "file:///etc/passwd"}, "must begin with https"),
        ({"kind": "mail", "host": "h", "from": "p@x.org", "to": ["nobody"]}, "is no address"),
        ({"kind": "pigeon"}, "one of webhook, mail, file"),
    ],
)
def test_what_no_sink_can_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigFault, match=message):
        sinks(Section({"sinks": [{"name": "s", **values}]}, ""))


def test_a_file_is_a_sink(tmp_path: Path) -> None:
    [(terms, _)] = sinks(Section({"sinks": [{"name": "s", "kind": "file", "path": str(tmp_path / "x")}]}, ""))
    assert (terms.is_required, terms.rank_min, terms.urgent_rank) == (True, 0, 3)

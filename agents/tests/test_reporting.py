"""The reporting agent on a real mesh, with a web server and a mail server of the test's own."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from email import message_from_string
from email.policy import default
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import Mail, Reply, Web, certificate
from support import Credentials, Stage, until

FILE = '[[sinks]]\nname = "file"\nkind = "file"\npath = "{path}"\ndigest_seconds = 0\nrate_count = 0\n'
WEBHOOK = '[[sinks]]\nname = "web"\nkind = "webhook"\nurl = "{url}/hook"\ntries = 2\nretry_seconds = 0.05\n'


@pytest.fixture
def who(stage: Stage) -> Credentials:
    return stage.agent("reporting")


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


def told(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Alerting:
    """Sends alerts to an agent."""

    def __init__(self, stage: Stage, who: Credentials) -> None:
        self.who = who
        self._agent = stage.sender()

    def __call__(self, text: str, severity: str = "high") -> str:
        return self._agent.send(to=self.who.name, type="alert", payload={"message": text, "severity": severity})


@pytest.fixture
def alert(stage: Stage, who: Credentials) -> Alerting:
    return Alerting(stage, who)


def texts(web: Web) -> list[list[str]]:
    return [[a["text"] for a in request.json()["alerts"]] for request in web.requests]


def test_an_alert_of_its_topic_reaches_every_sink(stage: Stage, who: Credentials, web: Web, tmp_path: Path) -> None:
    mail = Mail(certificate(tmp_path))
    path = tmp_path / "alerts.jsonl"
    topic = f"alerts-{who.name}"
    config = stage.config(
        FILE.format(path=path)
        + WEBHOOK.format(url=web.url)
        + 'headers = { Authorization = "Bearer x" }\ndigest_seconds = 0\n'
        + f'[[sinks]]\nname = "mail"\nkind = "mail"\nhost = "127.0.0.1"\nport = {mail.port}\nca = "{tmp_path}/cert.pem"\n'
        + 'tls = "starttls"\nfrom = "p@example.com"\nto = "on@example.com"\nseverity = "high"\ndigest_seconds = 0\n'
        + f'[reporting]\ntopics = "{topic}.>"\n'
    )
    running = stage.start("reporting", config, who)
    sender = stage.sender()
    until(lambda: stage.column("select 1 from postbell.subscriptions where agent_id = %s", who.name), "a subscription")
    sender.send(topic=f"{topic}.low", type="alert", payload={"message": "a little"})
    sender.send(topic=f"{topic}.critical", type="alert", payload={"message": "it burns", "agent_id": "oven"})
    until(lambda: len(told(path)) == 2, "two in the file")
    # The two may go in one post.
    until(lambda: sum(len(t) for t in texts(web)) == 2 and len(mail.mails) == 1, "two posted and one mailed")
    assert {(a["severity"], a["text"]) for a in told(path)} == {("low", "a little"), ("critical", "it burns")}
    assert web.requests[0].headers["authorization"] == "Bearer x"
    assert web.requests[0].headers["content-type"] == "application/json"
    composed = message_from_string(mail.mails[0], policy=default)
    assert composed["Subject"] == "[postbell] critical: it burns"
    assert "oven: it burns" in composed.get_content()
    assert mail.was_encrypted == [True]
    assert running.end() == 0
    mail.close()


def test_alerts_are_told_together_unless_one_is_urgent(stage: Stage, who: Credentials, web: Web, alert: Alerting) -> None:
    config = stage.config(WEBHOOK.format(url=web.url) + "digest_seconds = 600\n")
    running = stage.start("reporting", config, who)
    for n in range(5):
        alert(f"a{n}", "low")
    alert("hot", "critical")
    until(lambda: sum(len(t) for t in texts(web)) >= 6, "six alerts")
    alert("later", "low")
    until(
        lambda: stage.column("select 1 from agent_messages where to_agent_id = %s and status = 'delivered'", who.name),
        "later",
    )
    assert sum(len(t) for t in texts(web)) == 6 and len(web.requests) <= 2
    # An agent that leaves tells what it holds.
    assert running.end(signal.SIGTERM) == 0
    assert texts(web)[-1] == ["later"]


def test_no_alert_is_acknowledged_before_the_sink_has_it(stage: Stage, who: Credentials, web: Web, alert: Alerting) -> None:
    is_down = threading.Event()
    is_down.set()
    web.answer = lambda _: Reply(503 if is_down.is_set() else 200)
    path = stage.folder / "alerts.jsonl"
    config = stage.config(
        FILE.format(path=path) + WEBHOOK.format(url=web.url) + "digest_seconds = 0\n[reporting]\nhold_seconds = 0.2\n"
    )
    running = stage.start("reporting", config, who)
    ids = {alert("one"), alert("two")}
    until(lambda: len(web.requests) >= 8, "tries")
    assert set(stage.column("select status from agent_messages where to_agent_id = %s", who.name)) <= {"pending", "delivered"}
    # The process dies, the sink stays away, the next process goes on.
    running.kill()
    running = stage.start("reporting", config, who)
    until(lambda: len(web.requests) >= 16, "tries of the next process")
    is_down.clear()
    until(
        lambda: stage.column("select status from agent_messages where to_agent_id = %s", who.name) == ["processed"] * 2,
        "both acknowledged",
    )
    # The file had them from the first try on: once from each process, for as many as it was asked again.
    assert {a["message_id"] for a in told(path)} == ids and len(told(path)) <= 4
    # Not one attempt was counted.
    assert stage.column("select count(*) from postbell.deliveries where inbox = %s", who.name) == [0]
    assert running.end() == 0


def test_a_sink_that_is_not_required_holds_nothing(stage: Stage, who: Credentials, web: Web, alert: Alerting) -> None:
    web.answer = lambda _: Reply(500)
    path = stage.folder / "alerts.jsonl"
    optional = WEBHOOK.format(url=web.url) + "digest_seconds = 0\nrequired = false\n"
    alert("one")
    assert stage.once("reporting", stage.config(FILE.format(path=path) + optional), who) == 0
    assert [a["text"] for a in told(path)] == ["one"]
    assert len(web.requests) == 2
    assert stage.metric(who, "sink_failures") == 2


def test_what_a_sink_refuses_is_a_dead_letter_and_its_neighbours_are_told(
    stage: Stage, who: Credentials, web: Web, alert: Alerting
) -> None:
    web.answer = lambda r: Reply(422 if "poison" in r.body.decode() else 200)
    for text in ("one", "poison", "two"):
        alert(text)
    assert stage.once("reporting", stage.config(WEBHOOK.format(url=web.url) + "digest_seconds = 0.3\n"), who) == 1
    assert sorted(t[0] for t in texts(web) if len(t) == 1) == ["one", "poison", "two"]
    with who.sync_agent() as agent:
        letters = until(lambda: agent.dead_letters().letters, "a dead letter")
    assert [letter.payload["message"] for letter in letters] == ["poison"]
    assert "the webhook answered 422" in str(letters[0].reason)


def test_a_rate_gathers_what_may_not_be_told_yet(stage: Stage, who: Credentials, web: Web, alert: Alerting) -> None:
    config = stage.config(WEBHOOK.format(url=web.url) + "digest_seconds = 0\nrate_count = 1\nrate_seconds = 2\n")
    # All of them wait before the agent comes: how fast they are sent is not what is looked at.
    for n in range(10):
        alert(f"a{n}")
    stage.start("reporting", config, who)
    until(lambda: sum(len(t) for t in texts(web)) == 10, "ten alerts")
    assert len(web.requests) <= 4
    # The server may have noticed the earlier one late.
    gaps = [b.at - a.at for a, b in zip(web.requests, web.requests[1:], strict=False)]
    assert all(gap > 1.0 for gap in gaps), gaps


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ('tls = "starttls"\n', "does not offer STARTTLS, which the configuration asks for"),
        ('username = "u"\npassword = "secret"\n', "offers no TLS; the password is not sent in clear"),
    ],
)
def test_a_mail_server_without_tls_gets_no_more_than_was_allowed(
    stage: Stage, who: Credentials, alert: Alerting, values: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Not 127.0.0.1: there a password may pass.
    mail = Mail(host="127.0.0.2")
    config = stage.config(
        FILE.format(path=stage.folder / "x")
        + f'[[sinks]]\nname = "mail"\nkind = "mail"\nhost = "127.0.0.2"\nport = {mail.port}\n{values}'
        + 'from = "p@example.com"\nto = "on@example.com"\ntries = 1\nrequired = false\ndigest_seconds = 0\n'
    )
    alert("one")
    assert stage.once("reporting", config, who) == 0
    assert sentence in caplog.text
    assert mail.mails == [] and {line.split()[0].upper() for line in mail.said} <= {b"EHLO", b"QUIT"}
    mail.close()


def test_the_summary_is_told_once_a_day(stage: Stage, who: Credentials, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    # One moment for all runs: at midnight the next day's summary would be due.
    moment = datetime.now(timezone.utc)
    clock = SimpleNamespace(now=moment.astimezone)
    monkeypatch.setattr("postbell_agents.reporting.agent.datetime", clock)
    stage.run(
        "insert into agent_alerts (agent_id, alert_type, severity, message) values (%s, 'test', 'low', 'for the summary')",
        who.name,
    )
    config = stage.config(WEBHOOK.format(url=web.url) + '[summary]\nat = "00:00"\n')
    web.answer = lambda _: Reply(500)
    assert stage.once("reporting", config, who) == 1
    web.answer = lambda _: Reply()
    assert stage.once("reporting", config, who) == 0
    assert stage.once("reporting", config, who) == 0
    summaries = [r.json() for r in web.requests if "summary" in r.json()]
    # Two tries that failed, and one that did not.
    assert len(summaries) == 3
    today = moment.date().isoformat()
    assert summaries[-1]["summary"]["day"] == today
    assert summaries[-1]["summary"]["alerts"]["low"]["opened"] >= 1
    assert summaries[-1]["summary"]["agents"]["pc"]["agents"] >= 1
    assert summaries[-1]["text"].startswith(f"Summary of {today}: ")

"""The collecting agent on a real database, with a web server of the test's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from psycopg.types.json import Jsonb
from servers import Reply, Request, Web
from support import Credentials, Stage, until

from postbell_agents.collecting.agent import Collecting

SOURCE = """
[[sources]]
name = "@.{name}"
url = "{url}/rows"
table = "@.t"
key = "id"
columns = ["id", "v"]
interval_seconds = 0
"""


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


@pytest.fixture
def who(stage: Stage) -> Credentials:
    stage.run("create table {schema}.t (id int primary key, v text, at timestamptz default clock_timestamp())")
    return stage.agent("collecting")


def rows(stage: Stage) -> dict[int, Any]:
    return {row["id"]: row["v"] for row in stage.run("select id, v from {schema}.t order by id")}


def state(stage: Stage, name: str = "s") -> dict[str, Any]:
    [value] = stage.column("select state from postbell_agents.collecting_state where source = %s", f"{stage.schema}.{name}")
    assert isinstance(value, dict)
    return value


def query(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.path).query)


def document(of: dict[int, Any]) -> bytes:
    return json.dumps([{"id": n, "v": v, "more": "unasked"} for n, v in of.items()]).encode()


def test_rows_are_written_once_and_what_is_there_already_is_not_fetched(stage: Stage, who: Credentials, web: Web) -> None:
    content = {1: "a", 2: None, 3: "x"}

    def answer(request: Request) -> Reply:
        tag = f'"{sorted(content.items())}"'
        if request.headers.get("if-none-match") == tag:
            return Reply(304)
        return Reply(200, document(content), {"ETag": tag})

    web.answer = answer
    config = stage.config(SOURCE.format(name="s", url=web.url))
    assert stage.once("collecting", config, who) == 0
    assert rows(stage) == content
    assert web.requests[0].headers["user-agent"].startswith("postbell-collecting/")
    assert stage.once("collecting", config, who) == 0
    assert [stage.metric(who, name) for name in ("records_read", "rows_written", "requests")] == [0, 0, 1]
    content[2] = "b"
    before = stage.column("select at from {schema}.t where id = 1")
    assert stage.once("collecting", config, who) == 0
    assert rows(stage) == content
    assert stage.metric(who, "rows_written") == 1
    assert stage.column("select at from {schema}.t where id = 1") == before


def test_a_run_that_stops_in_the_middle_goes_on_with_the_next_page(stage: Stage, who: Credentials, web: Web) -> None:
    is_broken = True

    def answer(request: Request) -> Reply:
        page = int(query(request).get("page_token", ["1"])[0])
        if page == 3 and is_broken:
            return Reply(500)
        following = {"next": str(page + 1)} if page < 4 else {}
        return Reply(200, json.dumps({"items": [{"id": page, "v": 10 * page}], **following}).encode())

    web.answer = answer
    paged = 'records = "items"\nnext_page = "next"\ncursor_field = "v"\n'
    config = stage.config(SOURCE.format(name="s", url=web.url) + paged)
    assert stage.once("collecting", config, who) == 1
    assert rows(stage) == {1: "10", 2: "20"} and state(stage)["page"] == "3"
    [alert] = stage.alerts(who)
    assert (alert["severity"], alert["status"]) == ("medium", "active")
    assert "the source answered 500" in alert["message"]

    is_broken = False
    del web.requests[:]
    assert stage.once("collecting", config, who) == 0
    assert [query(r)["page_token"] for r in web.requests] == [["3"], ["4"]]
    assert rows(stage) == {n: str(10 * n) for n in (1, 2, 3, 4)}
    assert [a["status"] for a in stage.alerts(who)] == ["resolved"]
    # The next run begins anew, after what it has seen.
    assert state(stage) == {"cursor": "40"}
    assert stage.once("collecting", config, who) == 0
    assert query(web.requests[2]) == {"since": ["40"]}


def test_a_page_that_is_forgotten_begins_the_run_anew(stage: Stage, who: Credentials, web: Web) -> None:
    tokens = ["old"]

    def answer(request: Request) -> Reply:
        [token] = query(request).get("page_token", [""])
        if token:
            return Reply(200, b'{"items": []}') if token == "new" else Reply(410 if tokens[0] == "new" else 500)
        return Reply(200, json.dumps({"items": [{"id": 1, "v": "a"}], "next": tokens[0]}).encode())

    web.answer = answer
    config = stage.config(SOURCE.format(name="s", url=web.url) + 'records = "items"\nnext_page = "next"\n')
    assert stage.once("collecting", config, who) == 1
    tokens[0] = "new"
    assert stage.once("collecting", config, who) == 1
    assert "begins anew" in stage.alerts(who)[-1]["message"]
    assert stage.once("collecting", config, who) == 0


def test_the_source_is_given_the_time_it_asks_for(stage: Stage, who: Credentials, web: Web) -> None:
    web.answer = lambda _: Reply(429, headers={"Retry-After": "3600"})
    config = stage.config(SOURCE.format(name="s", url=web.url))
    assert stage.once("collecting", config, who) == 1
    assert "not_before" in state(stage)
    web.answer = lambda _: Reply(200, document({1: "a"}))
    # The next process knows.
    assert stage.once("collecting", config, who) == 0
    assert len(web.requests) == 1 and rows(stage) == {}
    assert [a["status"] for a in stage.alerts(who)] == ["active"]
    past = "update postbell_agents.collecting_state set state = %s where source = %s"
    stage.run(past, Jsonb({"not_before": 1}), f"{stage.schema}.s")
    assert stage.once("collecting", config, who) == 0
    assert rows(stage) == {1: "a"}
    assert [a["status"] for a in stage.alerts(who)] == ["resolved"]


def test_requests_to_one_host_keep_their_distance(
    stage: Stage, who: Credentials, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The agent's own waits are looked at, and not when a server that is busy noticed a request.
    waits: list[float] = []
    monkeypatch.setattr(Collecting, "_pause", lambda _, seconds: waits.append(seconds))
    web.answer = lambda _: Reply(200, b"[]")
    polite = SOURCE.replace("interval_seconds = 0", "interval_seconds = 3600")
    config = stage.config("".join(polite.format(name=f"s{n}", url=web.url) for n in range(3)))
    assert stage.once("collecting", config, who) == 0
    first, second, third = waits
    assert first == 0 and 3000 < second <= 3600 and 6600 < third <= 7200, waits
    assert len(web.requests) == 3


@pytest.mark.parametrize(
    ("reply", "more", "sentence"),
    [
        (Reply(200, b"[" + b" " * 2000 + b"]"), "bytes_max = 1000\n", "gives more than 1000 bytes"),
        (Reply(200, b"[]", missing=10), "", "ended 10 bytes early"),
        (Reply(302, headers={"Location": "http://other.example.com/rows"}), "", "redirects to another host"),
        (Reply(200, b'[{"id": "x"}]'), "", "invalid input syntax for type integer"),
        (Reply(200, b'[{"id": null}]'), "", "record 1 has no id"),
        (Reply(404), "", "answered 404"),
    ],
)
def test_what_cannot_be_taken_is_an_alert_and_changes_nothing(
    stage: Stage, who: Credentials, web: Web, reply: Reply, more: str, sentence: str
) -> None:
    web.answer = lambda _: reply
    assert stage.once("collecting", stage.config(SOURCE.format(name="s", url=web.url) + more), who) == 1
    assert rows(stage) == {}
    [alert] = stage.alerts(who)
    assert sentence in alert["message"], alert["message"]


def test_one_source_that_fails_does_not_keep_the_others(stage: Stage, who: Credentials, web: Web) -> None:
    web.answer = lambda _: Reply(200, document({1: "a"}))
    config = stage.config(SOURCE.format(name="bad", url="http://127.0.0.1:1") + SOURCE.format(name="good", url=web.url))
    assert stage.once("collecting", config, who) == 1
    assert rows(stage) == {1: "a"}
    assert [a["details"]["source"] for a in stage.alerts(who)] == [f"{stage.schema}.bad"]


def file_source(path: Path) -> str:
    return (
        f'[[sources]]\nname = "@.file"\npath = "{path}"\ntable = "@.t"\nkey = "id"\ncolumns = ["id", "v"]\nbatch_rows = 10\n'
    )


def test_a_file_goes_on_at_its_row_and_is_read_again_when_it_changed(stage: Stage, who: Credentials, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{n},v{n}" for n in range(1, 26)]
    path.write_text("\n".join(["id,v", *lines[:22], "oops,v", *lines[22:]]) + "\n")
    config = stage.config(file_source(path))
    assert stage.once("collecting", config, who) == 1
    assert len(rows(stage)) == 20 and state(stage, "file")["row"] == 20
    # Mended in place, of the same size and age: only what was missing is read.
    age = path.stat()
    path.write_text(path.read_text().replace("oops", "2600"))
    os.utime(path, ns=(age.st_atime_ns, age.st_mtime_ns))
    assert stage.once("collecting", config, who) == 0
    assert len(rows(stage)) == 26
    assert stage.metric(who, "records_read") == 6
    assert stage.once("collecting", config, who) == 0
    assert stage.metric(who, "records_read") == 0
    path.write_text("id,v\n1,other\n")
    assert stage.once("collecting", config, who) == 0
    assert rows(stage)[1] == "other" and len(rows(stage)) == 26


def test_it_collects_by_its_clock_and_when_it_is_asked_to(stage: Stage, who: Credentials, web: Web) -> None:
    web.answer = lambda _: Reply(200, document({1: "a"}))
    config = stage.config(SOURCE.format(name="s", url=web.url) + "every_seconds = 3600\n")
    running = stage.start("collecting", config, who)
    until(lambda: rows(stage) == {1: "a"}, "the first run")
    heard = stage.heard(stage.agent("asker"))
    web.answer = lambda _: Reply(200, document({1: "b"}))
    heard.agent.send(to=who.name, type="command", payload={"task": "collect"}, correlation_id="c")
    assert heard.answer("c") == {"ok": True, "result": heard.answer("c")["result"]}
    assert heard.answer("c")["result"]["rows_written"] == 1
    assert rows(stage) == {1: "b"} and len(web.requests) == 2
    assert running.end() == 0


def test_a_job_that_waits_leaves_when_it_is_told_to(stage: Stage, who: Credentials, web: Web) -> None:
    web.answer = lambda _: Reply(200, b"[]")
    patient = SOURCE.replace("interval_seconds = 0", "interval_seconds = 600")
    config = stage.config("".join(patient.format(name=f"s{n}", url=web.url) for n in range(2)))
    running = stage.start("collecting", config, who, arguments="--once")
    until(lambda: len(web.requests) == 1, "the first request")
    assert running.end() == 1, running.said()
    assert len(web.requests) == 1
    assert stage.alerts(who) == []

"""Records, state and pace without IO."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from postbell_agents.collecting import records
from postbell_agents.collecting.agent import is_due
from postbell_agents.collecting.records import BadRecord
from postbell_agents.collecting.sources import Source, sources
from postbell_agents.collecting.state import Pace, State, after_last, after_page, is_same_host, request, retry_at
from postbell_agents.collecting.store import upsert
from postbell_agents.config import Section
from postbell_agents.faults import ConfigFault


def source(**values: Any) -> Source:
    base = {"name": "s", "url": "https://x.org/a?n=1", "table": "s.t", "key": "id", "columns": ["id", "v"]}
    return sources(Section({"sources": [{**base, **values}]}, ""))[0]


def test_records_of_each_format() -> None:
    want = [{"id": 1, "v": "a"}, {"id": 2, "v": None}]
    assert records.parse(source(), b'[{"id": 1, "v": "a"}, {"id": 2, "v": null}]') == (want, None)
    nested = source(records="data.items", next_page="data.next")
    assert records.parse(nested, b'{"data": {"items": [{"id": 1}], "next": "p2"}}') == ([{"id": 1}], "p2")
    assert records.parse(nested, b'{"data": {"items": [], "next": null}}') == ([], None)
    assert records.parse(source(format="jsonl"), b'{"id": 1, "v": "a"}\n\n{"id": 2, "v": null}\n') == (want, None)
    csv = source(format="csv", delimiter=";")
    text = '\ufeffid;v\r\n1;"a;\n""b"""\r\n2;\r\n'.encode()
    assert records.parse(csv, text) == ([{"id": "1", "v": 'a;\n"b"'}, {"id": "2", "v": None}], None)
    assert records.parse(csv, b"") == ([], None)


@pytest.mark.parametrize(
    ("values", "data", "message"),
    [
        ({}, b"{", "the document is no JSON"),
        ({}, b'{"a": []}', "the document is no array"),
        ({"records": "a.b"}, b'{"a": []}', "a.b is no array"),
        ({}, b"[1]", "record 1 is no object"),
        ({}, b"\xff", "is not UTF-8: byte 0"),
        ({"format": "jsonl"}, b'{"id": 1}\nnot', "line 2 is no JSON"),
        ({"format": "csv"}, b"id,v\n1\n", "line 2 has another number of fields"),
        ({"format": "csv"}, b"id,v\n1,2,3\n", "line 2 has another number of fields"),
        ({"format": "csv"}, b'id,v\n1,"a\n', "is no CSV"),
    ],
)
def test_what_is_no_record_is_told(values: dict[str, Any], data: bytes, message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        records.parse(source(**values), data)


def test_rows_are_one_for_each_key_and_take_fields_from_where_they_are() -> None:
    of = source(columns={"id": "key.id", "v": "a.b"})
    found = records.rows(of, [{"key": {"id": 1}, "a.b": 1}, {"key": {"id": 2}, "a": {"b": 2}}, {"key": {"id": 1}, "a": {}}])
    assert found == [{"id": 1, "v": None}, {"id": 2, "v": 2}]
    with pytest.raises(BadRecord, match="record 1 has no id"):
        records.rows(of, [{"a": 1}])


def test_the_newest_cursor_is_the_greatest_by_value() -> None:
    of = source(cursor_field="n")
    assert records.newest(of, [{"n": 9}, {"n": 10}, {}], None) == "10"
    assert records.newest(of, [{"n": 9}], "10") == "10"
    assert records.newest(of, [{"n": "2026-01-02"}, {"n": "2026-01-10"}], "2026-01-03") == "2026-01-10"
    assert records.newest(of, [], None) is None


def test_a_request_asks_for_what_follows() -> None:
    of = source(headers={"A": "b"}, cursor_field="v")
    first = request(of, State())
    assert (first.url, first.headers) == ("https://x.org/a?n=1", {"A": "b"})
    again = request(of, State(etag='"e"', last_modified="then", cursor="7 8"))
    assert again.url == "https://x.org/a?n=1&since=7+8"
    assert again.headers == {"A": "b", "If-None-Match": '"e"', "If-Modified-Since": "then"}
    page = request(of, State(etag='"e"', page="t&2"))
    assert (page.url, page.headers) == ("https://x.org/a?n=1&page_token=t%262", {"A": "b"})
    assert request(of, State(page="/b?p=2")).url == "https://x.org/b?p=2"
    assert request(of, State(page="https://x.org/c")).url == "https://x.org/c"


def test_a_page_on_another_host_is_not_asked_for() -> None:
    of = source()
    assert is_same_host(of, "https://x.org/b")
    for url in ("http://x.org/b", "https://y.org/b", "https://x.org:8443/b"):
        assert not is_same_host(of, url)


def test_the_state_of_a_run_that_ended_and_of_one_under_way() -> None:
    begun = after_page(State(cursor="1"), "p2", "5")
    assert (begun.cursor, begun.cursor_next, begun.page) == ("1", "5", "p2")
    ended = after_last(begun, "6", '"e"', "then")
    assert ended == State(cursor="6")
    assert after_last(State(), None, '"e"', "then") == State(etag='"e"', last_modified="then")
    assert State.of({"page": "p", "from_a_newer_version": 1}) == State(page="p")
    assert State.of(State(page="p", row=3).as_json()) == State(page="p", row=3)


def test_patience_is_what_the_source_asks_for_up_to_a_day() -> None:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert retry_at("120", now) == now + timedelta(seconds=120)
    assert retry_at("Thu, 01 Jan 2026 01:00:00 GMT", now) == now + timedelta(hours=1)
    assert retry_at("999999999", now) == now + timedelta(days=1)
    for nothing in (None, "", "soon", "1" * 20):
        assert retry_at(nothing, now) is None


def test_requests_to_a_host_keep_their_distance() -> None:
    pace = Pace()
    assert [pace.wait("x", 2, 100), pace.wait("x", 2, 100), pace.wait("y", 2, 100)] == [0, 2, 0]
    assert pace.wait("x", 2, 103.5) == 0.5
    assert pace.wait("x", 2, 200) == 0


def test_a_source_that_fails_rests_longer_each_time() -> None:
    pace = Pace()
    pace.failed("s", 0)
    assert pace.is_resting("s", 29) and not pace.is_resting("s", 30)
    pace.failed("s", 30)
    assert pace.is_resting("s", 89) and not pace.is_resting("s", 90)
    pace.worked("s")
    assert not pace.is_resting("s", 31)


def test_when_it_is_a_sources_turn() -> None:
    of = source(every_seconds=60)
    assert is_due(of, State(), None, False, 0)
    assert is_due(of, State(), 61, False, 0) and not is_due(of, State(), 59, False, 0)
    assert is_due(of, State(), 1, True, 0) and is_due(of, State(page="p"), 1, False, 0)
    assert not is_due(of, replace(State(), not_before=10.0), None, True, 9)


def test_an_upsert_writes_only_what_is_another() -> None:
    text = upsert(source(key="id")).as_string(None)
    assert text == (
        'insert into "s"."t" as t ("id", "v") select "id", "v" from jsonb_populate_recordset(null::"s"."t", %s) '
        'on conflict ("id") do update set "v" = excluded."v" where ("t"."v") is distinct from ("excluded"."v")'
    )
    assert upsert(source(key=["id", "v"])).as_string(None).endswith('on conflict ("id", "v") do nothing')
    assert "conflict" not in upsert(source(key=[])).as_string(None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "file:///etc/passwd"}, "must begin with https"),
        ({"path": "x.csv"}, "a url or a path"),
        ({"key": "other"}, "'other' is none of the columns"),
        ({"format": "csv", "next_page": "next"}, "another format"),
        ({"columns": []}, "is empty"),
        ({"delimiter": ", "}, "is one character"),
    ],
)
def test_what_no_source_can_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigFault, match=message):
        source(**values)

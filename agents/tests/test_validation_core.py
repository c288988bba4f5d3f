"""Rules and statements without a database."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from psycopg import sql

from postbell_agents.alerts import Finding, Lasting, plan
from postbell_agents.config import Section
from postbell_agents.faults import ConfigFault
from postbell_agents.validation import statements
from postbell_agents.validation.agent import is_due
from postbell_agents.validation.rules import Measured, Rule, rules, sentence


def rule(**values: Any) -> Rule:
    return rules(Section({"rules": [{"name": "r", "table": "s.t", "columns": ["c"], **values}]}, ""))[0]


def text(query: sql.Composable) -> str:
    return query.as_string(None)


def test_names_are_quoted_whatever_they_are() -> None:
    evil = rule(check="not_null", table=["s", 't"; drop table x; --'], columns=['c"'])
    assert text(statements.count(evil)[0]) == (
        'select count(*) as violations from "s"."t""; drop table x; --" t where "t"."c""" is null'
    )


def test_a_percent_sign_in_a_name_is_no_placeholder() -> None:
    of = rule(check="not_null", table=["s", "50%"], columns="a%s")
    assert text(statements.count(of)[0]).endswith('from "s"."50%%" t where "t"."a%%s" is null')


def test_a_range_has_one_bound_or_two_and_no_binary_fractions() -> None:
    query, values = statements.count(rule(check="range", min=0.1, max=9))
    assert text(query).endswith('where ("t"."c" < %s or "t"."c" > %s)')
    assert values == [Decimal("0.1"), 9]
    query, values = statements.count(rule(check="range", max="2026-01-01"))
    assert text(query).endswith('where ("t"."c" > %s)')
    assert values == ["2026-01-01"]


def test_a_foreign_key_may_have_several_columns() -> None:
    of = rule(check="foreign_key", columns=["a", "b"], references="p", reference_columns=["x", "y"])
    assert text(statements.count(of)[0]).endswith(
        'where "t"."a" is not null and "t"."b" is not null and not exists '
        '(select from "p" r where "r"."x" = "t"."a" and "r"."y" = "t"."b")'
    )


def test_a_sample_needs_a_key_but_for_duplicates() -> None:
    assert statements.sample(rule(check="not_null"), 5) is None
    keyed = statements.sample(rule(check="not_null", key=["id"]), 5)
    assert keyed and keyed[1] == [5]
    assert statements.sample(rule(check="unique"), 3) is not None
    assert statements.sample(rule(check="freshness", key=["id"]), 3) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"check": "range"}, "a min or a max"),
        ({"check": "not_null", "columns": ["a", "b"]}, "about one column"),
        ({"check": "foreign_key", "references": "p", "reference_columns": ["a", "b"]}, "as many as the columns, 1"),
        ({"check": "not_null", "severity": "dire"}, "one of low, medium"),
    ],
)
def test_what_no_rule_can_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigFault, match=message):
        rule(**values)


def test_two_rules_of_one_name_are_refused() -> None:
    one = {"name": "r", "table": "t", "columns": ["c"], "check": "not_null"}
    with pytest.raises(ConfigFault, match="two of them have the name 'r'"):
        rules(Section({"rules": [one, one]}, ""))


def test_sentences() -> None:
    assert sentence(rule(check="not_null"), Measured(1, [])) == "s.t.c: 1 row without a value"
    assert sentence(rule(check="range", min=0), Measured(2, [])) == "s.t.c: 2 rows outside 0 to any"
    assert "there is nothing" in sentence(rule(check="freshness"), Measured(1, []))
    assert "120 s old, over 60" in sentence(rule(check="freshness", max_age_seconds=60), Measured(1, [], 120.0))


def test_alerts_open_last_and_end_and_what_was_not_looked_at_stays() -> None:
    found = [Finding("new", "low", ""), Finding("old", "low", "")]
    planned = plan({"old", "gone", "unknown"}, found, {"unknown"})
    assert [f.key for f in planned.opened] == ["new"]
    assert [f.key for f in planned.lasting] == ["old"]
    assert planned.resolved == ["gone"]


def test_a_finding_is_sent_once_or_again_after_a_while() -> None:
    def lasting(ago: float | None) -> Lasting:
        return Lasting(Finding("k", "low", ""), None, False, 1, ago)  # type: ignore[arg-type]

    assert is_due(lasting(None), 0) and is_due(lasting(61), 60)
    assert not is_due(lasting(59), 60) and not is_due(lasting(1e6), 0)

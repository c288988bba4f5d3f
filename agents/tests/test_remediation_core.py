"""Fixes and their statements without a database."""

from __future__ import annotations

from typing import Any

import pytest

from postbell_agents.config import Section
from postbell_agents.faults import ConfigFault
from postbell_agents.remediation.fixes import Fix, allowed, fixes
from postbell_agents.remediation.statements import statement


def fix(**values: Any) -> Fix:
    return fixes(Section({"fixes": [{"name": "f", **values}]}, ""), dry_run=True)[0]


CLAMP = {"action": "clamp", "table": "t", "columns": "c", "max": 9}


def test_everything_is_a_dry_run_unless_it_says_otherwise() -> None:
    assert fix(**CLAMP).dry_run
    assert not fix(**CLAMP, dry_run=False).dry_run


def test_only_what_the_file_allows_is_done_about_a_finding() -> None:
    of = fixes(
        Section({"fixes": [{"name": "a", "rules": ["r1", "r2"], **CLAMP}, {"name": "b", "rules": "r2", **CLAMP}]}, ""), True
    )

    def names(finding: Any) -> list[str]:
        return [f.name for f in allowed(of, finding)]

    assert names({"rule": "r1"}) == ["a"]
    assert names({"rule": "r2"}) == ["a", "b"]
    assert names({"fix": "b", "rule": "other"}) == ["b"]
    assert names({"rule": "other"}) == names({}) == names("r1") == names(None) == []


def test_values_are_parameters_in_the_order_of_the_statement() -> None:
    query, values = statement(fix(**{**CLAMP, "min": 1}))
    text = query.as_string(None)
    assert '"c" = least(greatest("t"."c", %s), %s)' in text
    assert values == [1, 9, 1000, 1, 9]
    query, values = statement(fix(action="set_default", table="t", columns="c", rows_max=7))
    assert 'set "c" = default from p' in query.as_string(None) and values == [7]
    query, values = statement(fix(action="set_default", table="t", columns="c", value="x'; drop table t; --"))
    assert "drop" not in query.as_string(None) and values == [1000, "x'; drop table t; --"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action": "statement", "statement": "update t set a = 1 returning *"}, r"%\(limit\)s"),
        ({"action": "statement", "statement": "update t set a = 1 limit %(limit)s"}, "returning"),
        ({"action": "delete_duplicates", "table": "t", "columns": ["a"]}, "oldest_by: is missing"),
        ({"action": "clamp", "table": "t", "columns": ["a"]}, "a min or a max"),
        ({"action": "set_default", "table": "t"}, "columns: is missing"),
        ({"action": "drop_table", "table": "t", "columns": "c"}, "one of set_default"),
        ({**CLAMP, "rows_max": 10_001}, "from 1 to 10000"),
    ],
)
def test_what_no_fix_can_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigFault, match=message):
        fix(**values)

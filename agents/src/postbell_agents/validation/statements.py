"""A rule as SQL: names are quoted identifiers, values are parameters. No IO."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from ..database import comma, name, names
from .rules import Rule

Statement = tuple[sql.Composed, list[Any]]


def count(rule: Rule) -> Statement:
    """One row: `violations`, and of freshness `age_seconds`."""
    if rule.check == "freshness":
        return _freshness(rule)
    if rule.check == "unique":
        body = sql.SQL("select coalesce(sum(n - 1), 0)::bigint as violations from ({}) d").format(_duplicates(rule))
        return body, []
    where, values = violated(rule)
    return sql.SQL("select count(*) as violations from {} t where {}").format(rule.table.sql, where), values


def sample(rule: Rule, limit: int) -> Statement | None:
    """Rows with one value, `row`, that names one that breaks the rule; none where there is nothing to name it by."""
    if rule.check == "unique":
        query = sql.SQL("select to_jsonb(d) as row from ({} limit %s) d").format(_duplicates(rule))
        return query, [limit]
    if rule.check == "freshness" or not rule.key:
        return None
    where, values = violated(rule)
    query = sql.SQL("select to_jsonb(s) as row from (select {} from {} t where {} limit %s) s").format(
        names(rule.key, "t"), rule.table.sql, where
    )
    return query, [*values, limit]


def violated(rule: Rule) -> Statement:
    """The condition of a row `t` that breaks a rule."""
    match rule.check:
        case "not_null":
            return sql.SQL("{} is null").format(name(rule.columns[0], "t")), []
        case "range":
            return outside(rule.columns[0], rule.low, rule.high)
        case _:
            assert rule.check == "foreign_key" and rule.references is not None
            return orphaned(rule.columns, rule.references.sql, rule.reference_columns), []


def outside(column: str, low: Any, high: Any) -> Statement:
    """Below `low` or above `high`; a null is neither."""
    parts: list[sql.Composable] = []
    values = []
    for bound, operator in ((low, sql.SQL("<")), (high, sql.SQL(">"))):
        if bound is not None:
            parts.append(sql.SQL("{} {} %s").format(name(column, "t"), operator))
            values.append(bound)
    return sql.SQL("({})").format(sql.SQL(" or ").join(parts)), values


def orphaned(of: tuple[str, ...], references: sql.Composable, to: tuple[str, ...]) -> sql.Composed:
    """The condition that a row refers to one that is not there. As in a foreign key, a null refers to nothing."""
    filled = sql.SQL(" and ").join([sql.SQL("{} is not null").format(name(c, "t")) for c in of])
    same = sql.SQL(" and ").join([sql.SQL("{} = {}").format(name(b, "r"), name(c, "t")) for c, b in zip(of, to, strict=True)])
    return sql.SQL("{} and not exists (select from {} r where {})").format(filled, references, same)


def _duplicates(rule: Rule) -> sql.Composed:
    # As a unique constraint has it, rows with a null are not the same.
    filled = sql.SQL(" and ").join([sql.SQL("{} is not null").format(name(c, "t")) for c in rule.columns])
    return sql.SQL("select {}, count(*) as n from {} t where {} group by {} having count(*) > 1").format(
        names(rule.columns, "t"), rule.table.sql, filled, comma([name(c, "t") for c in rule.columns])
    )


def _freshness(rule: Rule) -> Statement:
    newest = sql.SQL("select extract(epoch from now() - max({})::timestamptz)::float8 as age from {} t").format(
        name(rule.columns[0], "t"), rule.table.sql
    )
    # An empty table is not fresh.
    query = sql.SQL(
        "select age as age_seconds, case when coalesce(age > %s, true) then 1 else 0 end as violations from ({}) a"
    )
    return query.format(newest), [rule.max_age_seconds]

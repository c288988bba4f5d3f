"""A fix as SQL: one statement that changes at most so many rows and gives each as it was and as it is. No IO.

A row that somebody else changes meanwhile is left to the next time, in every one of them: it is known by its place, which
an update moves, and the rows that a fix depends on are locked.
"""

from __future__ import annotations

from typing import Any

from psycopg import sql

from ..database import name, names
from ..validation.statements import Statement, orphaned, outside
from .fixes import Fix

# A row's place. In a partitioned table a place is a partition's.
_SAME = "t.ctid = p.ctid and t.tableoid = p.tableoid"


def statement(fix: Fix) -> tuple[sql.Composed, Any]:
    """Rows of `before` and `after`."""
    match fix.action:
        case "set_default":
            return _set_default(fix)
        case "clamp":
            return _clamp(fix)
        case "delete_duplicates":
            return _delete_duplicates(fix)
        case "delete_orphans":
            return _delete_orphans(fix)
        case _:
            return _named(fix)


def _picked(fix: Fix, where: sql.Composable) -> sql.Composed:
    assert fix.table is not None
    return sql.SQL(
        "select t.tableoid, t.ctid, to_jsonb(t) as before from {} t where {} limit %s for update of t skip locked"
    ).format(fix.table.sql, where)


def _update(fix: Fix, where: sql.Composable, value: sql.Composable) -> sql.Composed:
    assert fix.table is not None
    return sql.SQL(
        "with p as materialized ({}) update {} t set {} = {} from p where {} returning p.before, to_jsonb(t) as after"
    ).format(_picked(fix, where), fix.table.sql, name(fix.columns[0]), value, sql.SQL(_SAME))


def _set_default(fix: Fix) -> Statement:
    where = sql.SQL("{} is null").format(name(fix.columns[0], "t"))
    if fix.value is None:
        return _update(fix, where, sql.SQL("default")), [fix.rows_max]
    return _update(fix, where, sql.SQL("%s")), [fix.rows_max, fix.value]


def _clamp(fix: Fix) -> Statement:
    where, values = outside(fix.columns[0], fix.low, fix.high)
    value: sql.Composable = name(fix.columns[0], "t")
    more = []
    for bound, function in ((fix.low, sql.SQL("greatest({}, %s)")), (fix.high, sql.SQL("least({}, %s)"))):
        if bound is not None:
            value = function.format(value)
            more.append(bound)
    return _update(fix, where, value), [*values, fix.rows_max, *more]


def _delete_orphans(fix: Fix) -> Statement:
    assert fix.table is not None and fix.references is not None
    where = orphaned(fix.columns, fix.references.sql, fix.reference_columns)
    query = sql.SQL(
        "with p as materialized ({}) delete from {} t using p where {} returning p.before, null::jsonb as after"
    ).format(_picked(fix, where), fix.table.sql, sql.SQL(_SAME))
    return query, [fix.rows_max]


def _delete_duplicates(fix: Fix) -> Statement:
    # The kept row is locked and then looked at again: were it deleted or changed meanwhile, all duplicates could go.
    assert fix.table is not None
    query = sql.SQL(
        """
        with ranked as (
          select t.tableoid, t.ctid, to_jsonb(t) as before, row_number() over w as n,
                 first_value(t.tableoid) over w as kept_tableoid, first_value(t.ctid) over w as kept_ctid
          from {table} t
          window w as (partition by {columns} order by {oldest}, t.tableoid, t.ctid)
        ), p as materialized (
          select * from ranked where n > 1 limit %s
        ), kept as materialized (
          select k.tableoid, k.ctid from {table} k
          where (k.tableoid, k.ctid) in (select kept_tableoid, kept_ctid from p)
          for share of k skip locked
        )
        delete from {table} t using p, kept
        where {same} and kept.ctid = p.kept_ctid and kept.tableoid = p.kept_tableoid
        returning p.before, null::jsonb as after
        """
    ).format(table=fix.table.sql, columns=names(fix.columns, "t"), oldest=name(fix.oldest_by, "t"), same=sql.SQL(_SAME))
    return query, [fix.rows_max]


def _named(fix: Fix) -> tuple[sql.Composed, Any]:
    # The writer of the configuration may do anything on the database anyway; nothing of a message gets in here.
    text = sql.SQL(fix.statement.strip().rstrip(";"))
    if fix.gives_before:
        return sql.Composed([text]), {"limit": fix.rows_max}
    query = sql.SQL("with changed as ({}) select to_jsonb(changed) as row from changed").format(text)
    return query, {"limit": fix.rows_max}

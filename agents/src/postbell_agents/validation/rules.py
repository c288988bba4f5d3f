"""The rules, as the file has them, checked. No IO."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..alerts import SEVERITIES
from ..config import Section
from ..database import Table, columns, table

CHECKS = ("not_null", "range", "unique", "foreign_key", "freshness")
SAMPLE_MAX = 100
RULES_MAX = 1000


@dataclass(frozen=True)
class Rule:
    """A condition that must hold of a table."""

    name: str
    check: str
    table: Table
    columns: tuple[str, ...]
    severity: str
    #: So many rows may break it before it is a finding.
    tolerated: int
    #: The columns that name a row in a finding's sample; empty: no sample, but for `unique`.
    key: tuple[str, ...]
    #: The fix that may mend it, as the remediation agent is told.
    fix: str | None
    #: `range`: any type that can be compared with the column.
    low: Any = None
    high: Any = None
    #: `foreign_key`
    references: Table | None = None
    reference_columns: tuple[str, ...] = ()
    #: `freshness`
    max_age_seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """The findings of a statement."""

    #: Rows that break the rule; of freshness 1 or 0.
    violations: int
    sample: list[Any]
    #: `freshness`: of the newest row; None where there is none.
    age_seconds: float | None = None


def rules(file: Section) -> list[Rule]:
    """Reads `[[rules]]`, whose names must differ."""
    found = [_rule(section) for section in file.sections("rules")]
    if not 0 < len(found) <= RULES_MAX:
        file.fault("rules", f"there must be from 1 to {RULES_MAX} of them, not {len(found)}")
    names = [rule.name for rule in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        file.fault("rules", f"two of them have the name {twice!r}, by which a finding is known")
    return found


def _rule(section: Section) -> Rule:
    check = section.choice("check", CHECKS)
    of_table, of_columns = table(section, "table"), columns(section, "columns")
    if not of_columns or (check in ("not_null", "range", "freshness") and len(of_columns) != 1):
        section.fault("columns", f"a rule of {check} is about {'one column' if check != 'unique' else 'columns'}")
    low, high, references, age = None, None, None, 0.0
    reference_columns: tuple[str, ...] = ()
    if check == "range":
        low, high = bounds(section)
    elif check == "foreign_key":
        references, reference_columns = reference(section, len(of_columns))
    elif check == "freshness":
        age = section.seconds("max_age_seconds", 86_400.0, 0.001, 1e9)
    return Rule(
        name=section.text("name"),
        check=check,
        table=of_table,
        columns=of_columns,
        severity=section.choice("severity", SEVERITIES, "medium"),
        tolerated=section.whole("tolerated", 0, 0, 2**53),
        key=columns(section, "key", ()),
        fix=section.text_or_none("fix"),
        low=low,
        high=high,
        references=references,
        reference_columns=reference_columns,
        max_age_seconds=age,
    )


def bounds(section: Section) -> tuple[Any, Any]:
    """`min` and `max`, of which one may be missing. Not a float: 0.1 must mean 0.1 to a numeric column."""
    low, high = (
        Decimal(repr(value)) if isinstance(value, float) else value
        for value in (section.anything("min"), section.anything("max"))
    )
    if low is None and high is None:
        section.fault("min", "a range has a min or a max")
    return low, high


def reference(section: Section, count: int) -> tuple[Table, tuple[str, ...]]:
    """`references` and `reference_columns`."""
    to = columns(section, "reference_columns")
    if len(to) != count:
        section.fault("reference_columns", f"must be as many as the columns, {count}")
    return table(section, "references"), to


def sentence(rule: Rule, measured: Measured) -> str:
    """The finding as a person reads it."""
    what = f"{rule.table}.{', '.join(rule.columns)}"
    n = measured.violations
    rows = "1 row" if n == 1 else f"{n} rows"
    match rule.check:
        case "not_null":
            return f"{what}: {rows} without a value"
        case "range":
            bound = " to ".join(str(b) if b is not None else "any" for b in (rule.low, rule.high))
            return f"{what}: {rows} outside {bound}"
        case "unique":
            return f"{what}: {rows} more than there are different values"
        case "foreign_key":
            return f"{what}: {rows} whose {rule.references} is not there"
        case _:
            if measured.age_seconds is None:
                return f"{what}: there is nothing"
            return f"{what}: the newest is {measured.age_seconds:.0f} s old, over {rule.max_age_seconds:.0f}"

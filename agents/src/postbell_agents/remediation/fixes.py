"""The fixes that are allowed, as the file has them, checked. No IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Section
from ..database import Table, columns, table
from ..validation.rules import bounds, reference

ACTIONS = ("set_default", "clamp", "delete_duplicates", "delete_orphans", "statement")
FIXES_MAX = 1000
#: One audit row holds them all, before and after.
ROWS_MAX = 10_000


@dataclass(frozen=True)
class Fix:
    """A change that may be made about a finding."""

    name: str
    action: str
    #: Findings of these rules of the validation agent's; one that names the fix itself has it too.
    rules: tuple[str, ...]
    rows_max: int
    dry_run: bool
    table: Table | None = None
    columns: tuple[str, ...] = ()
    #: `set_default`: None means the column's own default.
    value: Any = None
    #: `clamp`
    low: Any = None
    high: Any = None
    #: `delete_duplicates`: the first by this column is kept.
    oldest_by: str = ""
    #: `delete_orphans`
    references: Table | None = None
    reference_columns: tuple[str, ...] = ()
    #: `statement`: as the file has it, with `%(limit)s` and `returning`.
    statement: str = ""
    #: The statement gives back the columns `before` and `after`, rather than rows as they are now.
    gives_before: bool = False


def fixes(file: Section, dry_run: bool) -> list[Fix]:
    """Reads `[[fixes]]`."""
    found = [_fix(section, dry_run) for section in file.sections("fixes")]
    if not 0 < len(found) <= FIXES_MAX:
        file.fault("fixes", f"there must be from 1 to {FIXES_MAX} of them, not {len(found)}")
    names = [fix.name for fix in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        file.fault("fixes", f"two of them have the name {twice!r}, by which the audit knows them")
    return found


def _fix(section: Section, dry_run: bool) -> Fix:
    action = section.choice("action", ACTIONS)
    base: dict[str, Any] = {
        "name": section.text("name"),
        "action": action,
        "rules": section.texts("rules"),
        "rows_max": section.whole("rows_max", 1000, 1, ROWS_MAX),
        "dry_run": section.flag("dry_run", dry_run),
    }
    if action == "statement":
        return Fix(**base, statement=_statement(section), gives_before=section.flag("gives_before", False))
    base |= {"table": table(section, "table"), "columns": columns(section, "columns", ())}
    _check_columns(section, action, base["columns"])
    match action:
        case "set_default":
            return Fix(**base, value=section.anything("value"))
        case "clamp":
            low, high = bounds(section)
            return Fix(**base, low=low, high=high)
        case "delete_duplicates":
            return Fix(**base, oldest_by=columns(section, "oldest_by")[0])
        case _:
            references, to = reference(section, len(base["columns"]))
            return Fix(**base, references=references, reference_columns=to)


def _check_columns(section: Section, action: str, of: tuple[str, ...]) -> None:
    if not of:
        section.fault("columns", "is missing")
    if action in ("set_default", "clamp") and len(of) != 1:
        section.fault("columns", f"{action} is about one column")


def _statement(section: Section) -> str:
    text = section.text("statement")
    if "%(limit)s" not in text:
        section.fault("statement", "must bound its rows by %(limit)s, such as `… in (select … limit %(limit)s)`")
    if "returning" not in text.lower():
        section.fault("statement", "must give back what it changed by `returning`: that is what the audit keeps")
    return text


def allowed(of: list[Fix], finding: Any) -> list[Fix]:
    """The fixes of a finding, in the order of the file; none where it is not one, or where no rule allows any."""
    if not isinstance(finding, Mapping):
        return []
    return [fix for fix in of if finding.get("fix") == fix.name or finding.get("rule") in fix.rules]

"""The remediation agent on a real database and a real broker."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support import Credentials, Stage, mesh, until

from postbell_agents.config import Section
from postbell_agents.faults import Fault
from postbell_agents.remediation.agent import apply
from postbell_agents.remediation.fixes import fixes

FIXES = """
[[fixes]]
name = "names"
action = "set_default"
rules = "county has a name"
table = "@.county"
columns = "name"
value = "(unknown)"
dry_run = {dry_run}
"""


@pytest.fixture
def who(stage: Stage) -> Credentials:
    stage.run("create table {schema}.state (code text primary key)")
    stage.run("create table {schema}.county (id int, state text, name text, population int default 7, at timestamptz)")
    stage.run("insert into {schema}.state values ('TX')")
    return stage.agent("remediation")


def names(stage: Stage) -> list[Any]:
    return stage.column("select name from {schema}.county order by id")


def test_a_dry_run_shows_what_it_would_do_and_a_real_one_does_it_once(stage: Stage, who: Credentials) -> None:
    stage.run("insert into {schema}.county values (1, 'TX', null), (2, 'TX', 'Bell')")
    sender = stage.sender()
    finding = {"rule": "county has a name", "violations": 1}
    first = sender.send(to=who.name, payload=finding)
    assert stage.once("remediation", stage.config(FIXES.format(dry_run="true")), who) == 0
    assert names(stage) == [None, "Bell"]
    audit = "select dry_run, rows, changes, asked_by from postbell_agents.remediation_audit where message_id = %s"
    [row] = stage.run(audit, first)
    assert (row["dry_run"], row["rows"], row["asked_by"]) == (True, 1, sender.name)
    assert (row["changes"][0]["before"]["name"], row["changes"][0]["after"]["name"]) == (None, "(unknown)")

    second = sender.send(to=who.name, payload=finding, correlation_id="c")
    heard = stage.heard(stage.agent("topic"), "fixed")
    config = stage.config(FIXES.format(dry_run="false") + '[remediation]\ntopic = "fixed"\n')
    assert stage.once("remediation", config, who) == 0
    assert names(stage) == ["(unknown)", "Bell"]
    assert stage.run(audit, second)[0]["dry_run"] is False
    assert heard.wait()[0].payload["fixes"] == [{"fix": "names", "dry_run": False, "rows": 1}]
    assert stage.metric(who, "rows_fixed") == 1


def test_what_no_rule_allows_changes_nothing(stage: Stage, who: Credentials) -> None:
    stage.run("insert into {schema}.county values (1, 'TX', null)")
    sender = stage.sender()
    for payload in ({"rule": "another"}, "text", None, [1]):
        sender.send(to=who.name, payload=payload)
    assert stage.once("remediation", stage.config(FIXES.format(dry_run="false")), who) == 0
    assert names(stage) == [None]


def test_a_fix_that_cannot_work_is_a_dead_letter_with_the_reason(stage: Stage, who: Credentials) -> None:
    sender = stage.sender()
    sender.send(to=who.name, payload={"rule": "county has a name"})
    stage.run("alter table {schema}.county drop column name")
    assert stage.once("remediation", stage.config(FIXES.format(dry_run="false")), who) == 1
    with who.sync_agent() as agent:
        letters = until(lambda: agent.dead_letters().letters, "a dead letter")
    assert "does not exist" in str(letters[0].reason)


class Fixing:
    """Fixes on a connection of the test's."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.count = 0

    def __call__(self, *, message_id: str | None = None, **values: Any) -> list[dict[str, Any]]:
        self.count += 1
        values = {"name": "f", "dry_run": False, "table": [self.stage.schema, "county"], **values}
        [fix] = fixes(Section({"fixes": [values]}, ""), dry_run=True)
        message_id = message_id or f"{self.stage.schema}-{self.count}"
        with psycopg.connect(mesh().database_url, autocommit=True, row_factory=dict_row) as connection:
            with connection.transaction():
                apply(connection, fix, message_id=message_id, asked_by="test", agent_id="test")
            row = connection.execute(
                "select changes from postbell_agents.remediation_audit where message_id = %s", [message_id]
            ).fetchone()
        assert row
        changes: list[dict[str, Any]] = row["changes"]
        return changes


@pytest.fixture
def fixing(stage: Stage, who: Credentials) -> Fixing:
    # The agent makes its table.
    assert stage.once("remediation", stage.config(FIXES.format(dry_run="true")), who) == 0
    return Fixing(stage)


def test_clamping_is_bounded_and_leaves_nulls(stage: Stage, fixing: Fixing) -> None:
    stage.run("insert into {schema}.county (id, population) values (1, -5), (2, 50), (3, null), (4, 500), (5, -6)")
    clamp: dict[str, Any] = {"action": "clamp", "columns": "population", "min": 0, "max": 100}
    assert len(fixing(**clamp, rows_max=2)) == 2
    assert len(fixing(**clamp, rows_max=2)) == 1
    assert fixing(**clamp) == []
    assert stage.column("select population from {schema}.county order by id") == [0, 50, None, 100, 0]


def test_a_columns_own_default(stage: Stage, fixing: Fixing) -> None:
    stage.run("insert into {schema}.county (id, population) values (1, null)")
    [change] = fixing(action="set_default", columns="population")
    assert (change["before"]["population"], change["after"]["population"]) == (None, 7)


def test_of_duplicates_the_oldest_stays(stage: Stage, fixing: Fixing) -> None:
    stage.run(
        "insert into {schema}.county (id, state, name, at) values (1, 'TX', 'Bell', '2026-01-03'), "
        "(2, 'TX', 'Bell', '2026-01-01'), (3, 'TX', 'Bell', '2026-01-02'), (4, 'CA', 'Bell', '2026-01-01'), "
        "(5, null, 'Bell', '2026-01-01'), (6, null, 'Bell', '2026-01-01')"
    )
    twins: dict[str, Any] = {"action": "delete_duplicates", "columns": ["state", "name"], "oldest_by": "at"}
    changes = fixing(**twins)
    assert sorted(change["before"]["id"] for change in changes) in ([1, 3, 5], [1, 3, 6])
    assert all(change["after"] is None for change in changes)
    assert set(stage.column("select id from {schema}.county")) >= {2, 4}
    assert fixing(**twins) == []


def test_orphans_go_and_those_that_refer_to_nothing_stay(stage: Stage, fixing: Fixing) -> None:
    stage.run("insert into {schema}.county (id, state) values (1, 'TX'), (2, 'ZZ'), (3, null)")
    fixing(action="delete_orphans", columns="state", references=[stage.schema, "state"], reference_columns="code")
    assert stage.column("select id from {schema}.county order by id") == [1, 3]


def test_a_partitioned_table_has_rows_of_the_same_place(stage: Stage, fixing: Fixing) -> None:
    stage.run("drop table {schema}.county")
    stage.run("create table {schema}.county (id int, population int) partition by list (id)")
    for n in (1, 2):
        stage.run(f"create table {{schema}}.county{n} partition of {{schema}}.county for values in ({n})")
    stage.run("insert into {schema}.county values (1, -1), (2, 5)")
    [change] = fixing(action="clamp", columns="population", min=0)
    assert change["before"]["id"] == 1
    assert stage.column("select population from {schema}.county order by id") == [0, 5]


def test_a_named_statement_is_audited_and_held_to_its_bound(stage: Stage, fixing: Fixing) -> None:
    stage.run("insert into {schema}.county (id, name) values (1, ' a'), (2, 'b '), (3, 'c')")
    schema = stage.schema
    bounded = (
        f"update {schema}.county c set name = btrim(c.name) from (select id, to_jsonb(x) as before from {schema}.county x "
        "where name <> btrim(name) order by id limit %(limit)s) p where c.id = p.id returning p.before, to_jsonb(c) as after"
    )
    changes = fixing(action="statement", statement=bounded, rows_max=1, gives_before=True)
    assert [(c["before"]["name"], c["after"]["name"]) for c in changes] == [(" a", "a")]
    changes = fixing(
        action="statement", statement=f"update {schema}.county set name = 'x' where id <= %(limit)s returning id"
    )
    assert sorted(c["after"]["id"] for c in changes) == [1, 2, 3]
    unbounded = f"update {schema}.county set name = 'y' where %(limit)s > 0 returning id"
    with pytest.raises(Fault, match="would change 3 rows, over its bound of 2; nothing was changed"):
        fixing(action="statement", statement=unbounded, rows_max=2)
    assert names(stage) == ["x", "x", "x"]


def test_a_message_that_comes_twice_at_once_is_done_once(stage: Stage, fixing: Fixing) -> None:
    stage.run("create table {schema}.log (n int)")
    statement = f"insert into {stage.schema}.log select 1 from pg_sleep(0.3) where %(limit)s > 0 returning n"
    results: list[list[dict[str, Any]]] = []

    def fix() -> None:
        results.append(fixing(action="statement", statement=statement, message_id=f"{stage.schema}-same"))

    threads = [threading.Thread(target=fix) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stage.column("select count(*) from {schema}.log") == [1]
    assert results == [[{"before": None, "after": {"n": 1}}]] * 4


def test_a_row_that_changes_meanwhile_is_left_alone(stage: Stage, fixing: Fixing) -> None:
    stage.run(
        "insert into {schema}.county (id, state, name, at) values (1, 'TX', 'Bell', '2026-01-01'), "
        "(2, 'TX', 'Bell', '2026-01-02')"
    )
    with psycopg.connect(mesh().database_url) as other:
        # The one that is kept is on its way out: then nothing may be deleted.
        other.execute(f"delete from {stage.schema}.county where id = 1")
        assert fixing(action="delete_duplicates", columns=["state", "name"], oldest_by="at") == []
        other.commit()
    assert stage.column("select id from {schema}.county") == [2]

"""The validation agent on a real database and a real broker."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from support import Credentials, Stage, mesh

from postbell_agents.alerts import Alerts, Finding
from postbell_agents.database import Database

RULES = """
[findings]
to = "{fixer}"
repeat_seconds = 0

[[rules]]
name = "county has a name"
check = "not_null"
table = "@.county"
columns = "name"
key = "id"
severity = "high"
fix = "default name"

[[rules]]
name = "population is possible"
check = "range"
table = "@.county"
columns = "population"
key = ["id"]
min = 0
max = 20000000
severity = "low"

[[rules]]
name = "one row a county"
check = "unique"
table = "@.county"
columns = ["state", "name"]

[[rules]]
name = "state is known"
check = "foreign_key"
table = "@.county"
columns = "state"
references = "@.state"
reference_columns = "code"
severity = "critical"

[[rules]]
name = "loaded today"
check = "freshness"
table = "@.county"
columns = "loaded_at"
max_age_seconds = 86400
"""


@pytest.fixture
def who(stage: Stage) -> Credentials:
    stage.run("create table {schema}.state (code text primary key)")
    stage.run("create table {schema}.county (id int, state text, name text, population int, loaded_at timestamptz)")
    stage.run("insert into {schema}.state values ('TX'), ('CA')")
    stage.run("insert into {schema}.county values (1, 'TX', 'Travis', 1300000, now()), (2, 'CA', 'Kern', 900000, now())")
    return stage.agent("validation")


def test_what_breaks_a_rule_is_an_alert_and_a_message_while_it_lasts(stage: Stage, who: Credentials) -> None:
    fixer = stage.agent("fixer")
    heard = stage.heard(fixer)
    config = stage.config(RULES.replace("{fixer}", fixer.name))

    assert stage.once("validation", config, who) == 0
    assert stage.alerts(who) == []
    assert stage.metric(who, "findings") == 0
    old = "insert into agent_metrics (agent_id, metric_type, metric_name, recorded_at) values (%s, 'gauge', 'old', %s)"
    stage.run(old, who.name, "2020-01-01")

    stage.run(
        "insert into {schema}.county values (3, 'TX', null, -5, now()), (4, 'ZZ', 'Kern', 1, now()), "
        "(5, 'TX', 'Travis', 1, now())"
    )
    stage.run("update {schema}.county set loaded_at = now() - interval '2 days'")
    assert stage.once("validation", config, who) == 0
    alerts = {alert["details"]["rule"]: alert for alert in stage.alerts(who)}
    assert {name: (a["severity"], a["status"], a["details"]["violations"]) for name, a in alerts.items()} == {
        "county has a name": ("high", "active", 1),
        "population is possible": ("low", "active", 1),
        "one row a county": ("medium", "active", 1),
        "state is known": ("critical", "active", 1),
        "loaded today": ("medium", "active", 1),
    }
    messages = {m.payload["rule"]: m for m in heard.wait(5)}
    named = messages["county has a name"]
    assert (named.type, named.payload["fix"], named.payload["sample"]) == ("data", "default name", [{"id": 3}])
    assert named.payload["message"].endswith("county.name: 1 row without a value")
    assert messages["one row a county"].payload["sample"] == [{"state": "TX", "name": "Travis", "n": 2}]
    assert messages["state is known"].priority == 1

    # The finding lasts: the same alert, and no further message.
    stage.run("insert into {schema}.county values (6, 'TX', null, 1, now() - interval '2 days')")
    assert stage.once("validation", config, who) == 0
    assert len(stage.alerts(who)) == 5
    assert {a["details"]["rule"]: a["details"]["violations"] for a in stage.alerts(who)}["county has a name"] == 2
    assert stage.metric(who, "findings") == 5
    assert stage.column("select count(*) from agent_metrics where agent_id = %s and metric_name = 'old'", who.name) == [0]

    # The finding goes, and comes back: another alert, another message.
    stage.run("update {schema}.county set name = 'Hays' where name is null and id = 3")
    stage.run("update {schema}.county set name = 'Bell' where id = 6")
    assert stage.once("validation", config, who) == 0
    assert {a["details"]["rule"]: a["status"] for a in stage.alerts(who)}["county has a name"] == "resolved"
    stage.run("update {schema}.county set name = null where id = 6")
    assert stage.once("validation", config, who) == 0
    assert sorted(a["status"] for a in stage.alerts(who) if a["details"]["rule"] == "county has a name") == [
        "active",
        "resolved",
    ]
    heard.wait(6)
    assert len(heard.messages) == 6


def test_a_finding_that_was_not_sent_is_sent_by_the_next_run_and_again_after_a_while(stage: Stage, who: Credentials) -> None:
    heard = stage.heard(stage.agent("fixer"))
    rule = '[[rules]]\nname = "name"\ncheck = "not_null"\ntable = "@.county"\ncolumns = "name"\n'
    stage.run("update {schema}.county set name = null where id = 1")
    # As one that was killed between the alert and the message leaves it.
    assert stage.once("validation", stage.config(rule), who) == 0
    config = stage.config(f'{rule}[findings]\nto = "{heard.agent.name}"\nrepeat_seconds = 600\n')
    for _ in range(2):
        assert stage.once("validation", config, who) == 0
    assert len(heard.wait(1)) == 1
    later = 'update agent_alerts set details = details || \'{"sent_at": "2020-01-01"}\' where agent_id = %s'
    stage.run(later, who.name)
    assert stage.once("validation", config, who) == 0
    assert len(heard.wait(2)) == 2


def test_two_runs_at_once_open_one_alert(stage: Stage, who: Credentials) -> None:
    database = Database(mesh().database_url, application="test")
    finding = Finding("k", "low", "it is wrong")
    together = threading.Barrier(4)

    def run(_: int) -> UUID:
        with database.transaction() as connection:
            together.wait(30)
            [lasting] = Alerts(who.name, "test", "public").write(connection, [finding], set())
        return lasting.alert_id

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(run, range(4)))) == 1
    assert [alert["status"] for alert in stage.alerts(who)] == ["active"]
    database.close()


def test_a_rule_that_cannot_be_measured_fails_the_run_and_resolves_nothing(stage: Stage, who: Credentials) -> None:
    rule = '[[rules]]\nname = "{n}"\ncheck = "not_null"\ntable = "@.county"\ncolumns = "{c}"\n'
    config = stage.config(rule.format(n="name", c="name") + rule.format(n="state", c="state"))
    stage.run("insert into {schema}.county values (3, null, null, 1, now())")
    assert stage.once("validation", config, who) == 0
    stage.run("alter table {schema}.county drop column name")
    stage.run("update {schema}.county set state = 'TX'")
    assert stage.once("validation", config, who) == 1
    assert {a["details"]["rule"]: a["status"] for a in stage.alerts(who)} == {"name": "active", "state": "resolved"}
    assert stage.metric(who, "run_failed") == 1


def test_odd_names_are_names(stage: Stage, who: Credentials) -> None:
    stage.run("""create table {schema}."50%% of {{x}}; --" ("a%%s" int, "b""c" int)""".replace("%%", "%"))
    stage.run("""insert into {schema}."50% of {{x}}; --" values (1, null), (1, 5)""")
    config = stage.config(
        """
        [[rules]]
        name = "odd"
        check = "not_null"
        table = ["@", "50% of {x}; --"]
        columns = 'b"c'
        key = "a%s"
        [[rules]]
        name = "odd range"
        check = "range"
        table = ["@", "50% of {x}; --"]
        columns = "a%s"
        max = 0
        [[rules]]
        name = "odd twins"
        check = "unique"
        table = ["@", "50% of {x}; --"]
        columns = "a%s"
        """
    )
    assert stage.once("validation", config, who) == 0
    assert [a["details"]["violations"] for a in stage.alerts(who)] == [1, 2, 1]
    assert stage.alerts(who)[0]["details"]["sample"] == [{"a%s": 1}]


def test_it_answers_questions_and_works_when_it_is_asked_to(stage: Stage, who: Credentials) -> None:
    asker = stage.agent("asker")
    heard = stage.heard(asker)
    running = stage.start("validation", stage.config(RULES.replace("{fixer}", asker.name)), who)
    heard.agent.send(to=who.name, type="query", payload={"ask": "health"}, correlation_id="q1")
    health = heard.answer("q1")
    assert (health["ok"], health["kind"], health["agent"]) == (True, "validation", who.name)
    stage.run("update {schema}.county set name = null where id = 1")
    heard.agent.send(to=who.name, type="command", payload={"task": "validate"}, correlation_id="c1")
    assert heard.answer("c1")["result"]["findings"] == 1
    heard.agent.send(to=who.name, type="query", payload={"ask": "the time"}, correlation_id="q2")
    assert heard.answer("q2")["ok"] is False
    assert running.end() == 0, running.said()


def test_an_agent_that_may_not_connect_says_why_and_exits_1(stage: Stage, who: Credentials) -> None:
    running = stage.start("validation", stage.config(RULES), who, POSTBELL_TOKEN="pb_guess", arguments="--once")
    assert running.process.wait(30) == 1
    assert "unknown agent or wrong token" in running.said()

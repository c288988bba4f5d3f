"""A mesh in three environments, with all five agents: how long each thing takes, printed and held to its bound."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from environments import Environment, Started
from servers import Reply, Web
from support import Credentials, Stage, exported, until

#: From one environment to another.
CROSS_SECONDS_MAX = 5.0
ALERT_SECONDS_MAX = 60.0

VALIDATION = """
[findings]
to = "{fixer}"
[[rules]]
name = "{schema} names"
check = "not_null"
table = "@.county"
columns = "name"
severity = "critical"
"""
VALIDATION_RUN = "every_seconds = 0.5\n"
REMEDIATION = """
[remediation]
dry_run = false
[[fixes]]
name = "names"
action = "set_default"
rules = "{schema} names"
table = "@.county"
columns = "name"
value = "(unknown)"
"""
REPORTING = """
[[sinks]]
name = "web"
kind = "webhook"
url = "{url}/alerts"
rate_count = 0
"""
COLLECTING = """
[[sources]]
name = "@.county"
url = "{url}/rows"
table = "@.county"
key = "id"
columns = ["id", "name"]
"""
ORCHESTRATOR = """
[orchestrator]
lock_seconds = 2
standby_seconds = 0.2
grace_seconds = 1
"""


@dataclass
class Times:
    """Measured times, each with its bound."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, what: str, seconds: float, seconds_max: float) -> None:
        self.rows.append((what, seconds, seconds_max))

    def table(self) -> str:
        width = max(len(what) for what, _, _ in self.rows)
        lines = [f"{'':{width}}  seconds    bound"]
        lines += [f"{what:{width}}  {seconds:7.3f}  {bound:7.0f}" for what, seconds, bound in self.rows]
        return "\n".join(["", *lines, ""])


@dataclass
class Mesh:
    """The mesh under test: who is where."""

    stage: Stage
    web: Web
    environments: dict[str, Environment]
    who: dict[str, Credentials]
    started: dict[str, Started] = field(default_factory=dict)

    def start(self, name: str, environment: str, kind: str, config: str, *arguments: str) -> Started:
        text = config.replace("{schema}", self.stage.schema).replace("{url}", self.web.url)
        text = text.replace("{fixer}", self.who["remediation"].name)
        started = self.environments[environment].agent(kind, self.stage.config(text), self.who[name], *arguments)
        self.started[name] = started
        return started


PLACES = {
    "pc": ("validation", "probe-pc"),
    "railway": ("remediation", "reporting", "probe-railway"),
    "github": ("collecting", "probe-github", "job", "check"),
}


@pytest.fixture
def mesh(stage: Stage) -> Iterator[Mesh]:
    stage.run("create table {schema}.county (id int primary key, name text)")
    stage.run("insert into {schema}.county values (1, 'Bell')")
    web = Web(lambda request: Reply(200, b'[{"id": 2, "name": "Kern"}]' if request.path == "/rows" else b""))
    who = {name: stage.agent(name, environment=place) for place, names in PLACES.items() for name in names}
    # One name, a process in each of two environments.
    who["orchestrator"] = stage.agent("orchestrator", role="orchestrator", environment="pc")
    mesh = Mesh(stage, web, {name: Environment(name) for name in PLACES}, who)
    try:
        for place, environment in mesh.environments.items():
            mesh.started[f"probe-{place}"] = environment.probe(who[f"probe-{place}"])
        active = mesh.environments["pc"].agent("orchestrator", stage.config(ORCHESTRATOR), who["orchestrator"])
        active.says("active, with the fence")
        mesh.started["orchestrator-pc"] = active
        mesh.started["orchestrator-railway"] = mesh.environments["railway"].agent(
            "orchestrator", stage.config(ORCHESTRATOR), who["orchestrator"]
        )
        mesh.start("validation", "pc", "validation", VALIDATION_RUN + VALIDATION)
        mesh.start("remediation", "railway", "remediation", REMEDIATION)
        mesh.start("reporting", "railway", "reporting", REPORTING)
        mesh.start("collecting", "github", "collecting", COLLECTING)
        for place in PLACES:
            mesh.started[f"probe-{place}"].says('"here"')
        yield mesh
    finally:
        ended = {name: environment.end() for name, environment in mesh.environments.items()}
        web.close()
    for name, statuses in ended.items():
        assert set(statuses.values()) == {0}, f"{name}: {statuses}"


def test_three_environments_are_one_mesh(mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    times = Times()
    metrics_from_all(mesh, times)
    from_one_to_another(mesh, times, "pc", "railway")
    from_one_to_another(mesh, times, "railway", "pc")
    a_scheduled_job_that_both_answer(mesh, times)
    an_agent_as_a_scheduled_job(mesh, times)
    a_finding_on_the_pc_is_mended_in_the_cloud_and_told_to_all(mesh, times)
    a_killed_orchestrator_is_replaced(mesh, times)
    with capsys.disabled():
        print(times.table())
    late = [row for row in times.rows if row[1] > row[2]]
    assert not late, times.table()


def metrics_from_all(mesh: Mesh, times: Times) -> None:
    began = time.monotonic()

    def environments() -> bool:
        found = mesh.stage.column(
            "select distinct r.environment from agent_metrics m join agent_registry r using (agent_id) "
            "where m.agent_id = any (%s)",
            [who.name for who in mesh.who.values()],
        )
        return set(found) == {"pc", "railway", "github"}

    def are_exported() -> bool:
        # The latest value per agent and name, where Prometheus reads it.
        lines = [line for line in exported().splitlines() if line.startswith("postbell_agent_metric{")]
        names = [mesh.who[name].name for name in ("validation", "remediation", "reporting", "collecting", "orchestrator")]
        return all(any(f'agent="{name}"' in line for line in lines) for name in names)

    until(environments, "metrics of each environment")
    until(are_exported, "metrics of each agent at the broker")
    times.add("metrics of all three environments, from their start", time.monotonic() - began, ALERT_SECONDS_MAX)


def from_one_to_another(mesh: Mesh, times: Times, one: str, other: str) -> None:
    sender = mesh.stage.sender()
    asker, asked = mesh.started[f"probe-{one}"], mesh.who[f"probe-{other}"]
    sender.send(to=mesh.who[f"probe-{one}"].name, type="command", payload={"ask": asked.name})
    answer = asker.fact("answered", by=asked.name)
    assert answer["where"] == other
    times.add(f"{one} asks {other}, there and back", answer["seconds"], CROSS_SECONDS_MAX)


def a_scheduled_job_that_both_answer(mesh: Mesh, times: Times) -> None:
    tasks = [
        {"task": "validate", "needs": "validation", "environment": "pc"},
        {"task": "summarise", "needs": "reporting", "environment": "railway"},
    ]
    began = time.time()
    job = mesh.environments["github"].probe(mesh.who["job"], "job", mesh.who["orchestrator"].name, json.dumps(tasks))
    assert job.process.wait(30) == 0, job.lines
    done = until(lambda: len(job.facts("task")) == 2 and job.facts("task"), "two answers")
    assert isinstance(done, list)
    for fact in done:
        assert fact["ok"] is True
        times.add(f"github's job has a task done on {fact['environment']}", fact["answered_at"] - began, CROSS_SECONDS_MAX)


def an_agent_as_a_scheduled_job(mesh: Mesh, times: Times) -> None:
    began = time.monotonic()
    job = mesh.start("check", "github", "validation", VALIDATION, "--once")
    assert job.process.wait(30) == 0, job.lines
    times.add("an agent as a job on github, from its start to its end", time.monotonic() - began, ALERT_SECONDS_MAX)


def a_finding_on_the_pc_is_mended_in_the_cloud_and_told_to_all(mesh: Mesh, times: Times) -> None:
    stage = mesh.stage
    stage.run("insert into {schema}.county values (3, null)")
    [alert] = until(
        lambda: stage.run(
            "select alert_id::text, extract(epoch from created_at)::float8 as at from agent_alerts where agent_id = %s",
            mesh.who["validation"].name,
        ),
        "an alert",
    )
    until(lambda: stage.column("select name from {schema}.county where id = 3") == ["(unknown)"], "the fix")
    [mended] = stage.column(
        "select extract(epoch from a.applied_at - m.created_at)::float8 from postbell_agents.remediation_audit a "
        "join agent_messages m on m.message_id::text = a.message_id where a.asked_by = %s",
        mesh.who["validation"].name,
    )
    times.add("a finding on pc is mended on railway", mended, CROSS_SECONDS_MAX)
    for place in PLACES:
        heard = mesh.started[f"probe-{place}"].fact("alert", alert_id=alert["alert_id"], topic="alerts.critical")
        times.add(f"an alert of pc reaches {place}", heard["at"] - alert["at"], ALERT_SECONDS_MAX)

    def posted() -> Any:
        return [
            request
            for request in list(mesh.web.requests)
            if request.path == "/alerts" and alert["alert_id"] in request.body.decode()
        ]

    until(posted, "the alert at the webhook")
    times.add("and the webhook, by the agent on railway", time.time() - alert["at"], ALERT_SECONDS_MAX)
    [status] = until(
        lambda: stage.column(
            "select status from agent_alerts where alert_id = %s and status = 'resolved'", alert["alert_id"]
        ),
        "its end",
    )
    assert status == "resolved"


def a_killed_orchestrator_is_replaced(mesh: Mesh, times: Times) -> None:
    before, after = mesh.started["orchestrator-pc"], mesh.started["orchestrator-railway"]
    assert not [line for line in after.lines if "active, with" in line]
    began = time.monotonic()
    before.process.kill()
    with mesh.who["job"].sync_agent() as agent:
        # Asked while nobody is active: it waits for the next one.
        health = agent.request(to=mesh.who["orchestrator"].name, payload={"ask": "health"}, timeout=30).payload
    times.add("a killed orchestrator is replaced, and the next answers", time.monotonic() - began, ALERT_SECONDS_MAX)
    after.says("active, with the fence")
    assert health["environment"] == "railway"
    assert {place: of["alive"] >= 1 for place, of in health["agents"].items() if place in PLACES} == dict.fromkeys(
        PLACES, True
    )
    task = {"task": "validate", "needs": "validation", "environment": "pc"}
    began_at = time.time()
    job = mesh.environments["github"].probe(mesh.who["job"], "job", mesh.who["orchestrator"].name, json.dumps([task]))
    assert job.process.wait(30) == 0, job.lines
    fact = job.fact("task")
    times.add("a task by the next one", fact["answered_at"] - began_at, CROSS_SECONDS_MAX)

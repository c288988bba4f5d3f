"""Orchestrators on a real mesh: tasks, the dead, the standby, escalations."""

from __future__ import annotations

import signal
import threading
from typing import Any
from uuid import uuid4

import pytest
from postbell import SyncMessage
from psycopg.types.json import Jsonb
from support import Credentials, Heard, Running, Stage, until
from support import mesh as broker

from postbell_agents.orchestrator import store
from postbell_agents.orchestrator.asked import Asked, Outcome

CONFIG = """
[orchestrator]
lock_seconds = 2
standby_seconds = 0.1
grace_seconds = 0.5
deadline_seconds = 60
"""


class Able(Heard):
    """A worker that does what it is told by a function."""

    def __init__(self, stage: Stage, who: Credentials, needs: str, do: Any) -> None:
        super().__init__(who)
        self._do = do
        stage.run("update agent_registry set capabilities = %s where agent_id = %s", Jsonb([needs]), who.name)
        stage._closing.append(self.close)

        @self.agent.on("command")
        def command(message: SyncMessage) -> None:
            self.messages.append(message)
            answer = self._do(message)
            if answer is not None:
                self.agent.send(to=message.sender, type="response", payload=answer, correlation_id=message.correlation_id)


class Mesh:
    """An orchestrator that nobody else has, since the lock is one for all: the tests run one after the other."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.who = stage.agent("orchestrator", role="orchestrator")
        self.asker = stage.heard(stage.agent("asker"))
        self.needs = f"work-{self.who.name}"

    def start(self, more: str = "") -> Running:
        return self.stage.start("orchestrator", self.stage.config(CONFIG + more), self.who)

    def ask(self, **payload: Any) -> str:
        return self.asker.agent.send(to=self.who.name, type="command", payload={"task": "t", "needs": self.needs, **payload})

    def able(self, do: Any, environment: str = "pc") -> Able:
        who = self.stage.agent("worker", environment=environment)
        return Able(self.stage, who, self.needs, do)

    def task(self, task_id: str) -> dict[str, Any]:
        found = self.stage.run("select * from postbell_agents.orchestrator_tasks where task_id = %s", task_id)
        return dict(found[0]) if found else {"status": None}


@pytest.fixture
def mesh(stage: Stage) -> Mesh:
    return Mesh(stage)


def done(_: SyncMessage) -> dict[str, Any]:
    return {"ok": True, "result": {"rows": 3}}


def never(_: SyncMessage) -> None:
    return None


def test_a_task_is_assigned_done_and_answered(mesh: Mesh) -> None:
    here, there = mesh.able(done), mesh.able(done, environment="railway")
    running = mesh.start()
    first = mesh.ask()
    second = mesh.ask(environment="railway", task={"county": "c12"})
    answer = mesh.asker.answer(first)
    assert (answer["ok"], answer["result"], answer["task_id"]) == (True, {"rows": 3}, first)
    assert mesh.asker.answer(second)["agent"] == there.agent.name
    [command] = [m for m in there.messages if m.payload["task_id"] == second]
    assert command.payload == {"task": {"county": "c12"}, "task_id": second, "assignment": 1}
    assert here.agent.name != there.agent.name
    assert running.end() == 0, running.said()


def test_who_only_asks_has_the_result_as_its_reply(mesh: Mesh) -> None:
    mesh.able(done)
    running = mesh.start()
    # No handler: nothing but replies to this very process comes to it.
    with mesh.stage.agent("script").sync_agent() as script:
        reply = script.request(to=mesh.who.name, type="command", payload={"task": "t", "needs": mesh.needs}, timeout=15)
    assert (reply.payload["ok"], reply.payload["result"]) == (True, {"rows": 3})
    assert running.end() == 0, running.said()


def test_what_is_no_task_is_answered(mesh: Mesh) -> None:
    running = mesh.start()
    bad = mesh.asker.agent.send(to=mesh.who.name, type="command", payload={"task": "t"})
    assert mesh.asker.answer(bad) == {
        "ok": False,
        "error": 'a task has "task", what is to be done, and "needs", the capability that does it',
    }
    assert running.end() == 0


def test_a_task_waits_for_somebody_who_can(mesh: Mesh) -> None:
    running = mesh.start()
    task = mesh.ask()
    until(lambda: mesh.task(task)["status"] == "waiting", "it waits")
    late = mesh.able(done)
    assert mesh.asker.answer(task)["agent"] == late.agent.name
    assert running.end() == 0


def test_what_fails_is_tried_by_others_and_then_fails(mesh: Mesh) -> None:
    workers = [mesh.able(lambda _: {"ok": False, "error": "no disk"}) for _ in range(2)]
    running = mesh.start()
    answer = mesh.asker.answer(mesh.ask(assignments_max=2))
    assert (answer["ok"], answer["error"], answer["assignments"]) == (False, "no disk", 2)
    assert [len(w.messages) for w in workers] == [1, 1]
    assert running.end() == 0


def test_who_is_too_late_loses_its_task(mesh: Mesh) -> None:
    slow = mesh.able(never)
    running = mesh.start()
    # As often as it takes until the other is there: with fewer the task could fail first, on a machine busy with much else.
    task = mesh.ask(deadline_seconds=0.5, assignments_max=100)
    slow.wait(1)
    fast = mesh.able(done)
    assert mesh.asker.answer(task)["agent"] == fast.agent.name
    assert mesh.task(task)["assignment"] >= 2
    assert running.end() == 0


def test_the_task_of_a_dead_agent_is_done_by_another(mesh: Mesh) -> None:
    dying = mesh.able(never)
    running = mesh.start()
    task = mesh.ask()
    dying.wait(1)
    other = mesh.able(done)
    dying.close()
    answer = mesh.asker.answer(task)
    assert (answer["agent"], answer["assignments"]) == (other.agent.name, 2)
    assert running.end() == 0


def test_a_killed_orchestrator_is_replaced_and_the_next_goes_on(mesh: Mesh) -> None:
    go = threading.Event()

    def wait(message: SyncMessage) -> dict[str, Any]:
        go.wait(30)
        return done(message)

    worker = mesh.able(wait)
    active = mesh.start()
    active.wait_for("active, with the fence")
    standby = mesh.start()
    tasks = [mesh.ask() for _ in range(3)]
    worker.wait(1)
    assert "active" not in standby.said()
    active.kill()
    # Asked for while nobody is active.
    tasks.append(mesh.ask())
    go.set()
    for task in tasks:
        assert mesh.asker.answer(task)["ok"] is True
    standby.wait_for("active, with the fence")
    # Each task's command was sent once, though its sender died.
    assert sorted(m.payload["task_id"] for m in worker.messages) == sorted(tasks)
    fences = {mesh.task(task)["fence"] for task in tasks}
    assert len(fences) == 1
    assert standby.end() == 0


def test_a_result_that_is_too_large_to_pass_on_keeps_nobody_behind_it(mesh: Mesh) -> None:
    # As large as a payload may be; the answer has more around it.
    mesh.able(lambda m: {"ok": True, "result": "x" * 983_000 if m.payload["task"] == "large" else 1})
    running = mesh.start()
    large, small = mesh.ask(task="large"), mesh.ask()
    assert mesh.asker.answer(small)["result"] == 1
    answer = mesh.asker.answer(large)
    assert answer["ok"] is False and answer["error"].startswith("the result cannot be sent: ")
    assert running.end() == 0


def test_one_that_lost_the_lock_stands_by_and_leads_again(mesh: Mesh) -> None:
    running = mesh.start()
    running.wait_for("active, with the fence")
    broker().freeze_broker()
    running.wait_for("could not be renewed")
    broker().end_broker()
    broker().start_broker()
    until(lambda: running.said().count("active, with the fence") == 2, "active again")
    worker = mesh.able(done)
    assert mesh.asker.answer(mesh.ask())["agent"] == worker.agent.name
    assert running.end() == 0, running.said()


def test_one_that_leaves_gives_the_lock_back(mesh: Mesh) -> None:
    active = mesh.start()
    active.wait_for("active, with the fence")
    standby = mesh.start()
    assert active.end(signal.SIGTERM) == 0
    standby.wait_for("active, with the fence")
    assert standby.end() == 0


def test_once_does_a_round_and_leaves_what_another_does_to_it(mesh: Mesh, stage: Stage) -> None:
    worker = mesh.able(done)
    task = mesh.ask()
    config = stage.config(CONFIG)
    assert stage.once("orchestrator", config, mesh.who) == 0
    assert mesh.asker.answer(task)["agent"] == worker.agent.name
    active = mesh.start()
    active.wait_for("active, with the fence")
    assert stage.once("orchestrator", config, mesh.who) == 0
    assert active.end() == 0


def test_it_says_how_the_mesh_is(mesh: Mesh, stage: Stage) -> None:
    running = mesh.start()
    mesh.ask()

    def tasks() -> Any:
        question = mesh.asker.agent.send(to=mesh.who.name, type="query", payload={"ask": "health"})
        health = mesh.asker.answer(question)
        return health if health["tasks"] else None

    health = until(tasks, "a task")
    assert health["ok"] is True and health["kind"] == "orchestrator"
    assert health["agents"]["pc"]["alive"] >= 2
    assert health["tasks"]["waiting"] >= 1
    assert health["oldest_waiting_seconds"] >= 0
    assert running.end() == 0
    stage.run("delete from postbell_agents.orchestrator_tasks where asked_by = %s", mesh.asker.agent.name)


def test_an_escalated_alert_is_told_again_until_somebody_looks(mesh: Mesh, stage: Stage) -> None:
    on_call = stage.heard(stage.agent("oncall"))
    subscriber = stage.heard(stage.agent("subscriber"), "alerts.unacknowledged")
    running = mesh.start(f'[escalation]\nto = "{on_call.agent.name}"\nrepeat_seconds = 1\ntimes_max = 100\n')
    running.wait_for("active")
    [alert_id] = stage.column(
        "insert into agent_alerts (agent_id, alert_type, severity, message) values ('oven', 'heat', 'high', 'hot') "
        "returning alert_id"
    )
    payload = {"alert_id": str(alert_id), "severity": "high", "message": "hot", "agent_id": "oven"}
    for _ in range(2):
        mesh.asker.agent.send(topic="alerts.escalated", type="alert", payload=payload)

    def is_ours(message: SyncMessage) -> bool:
        # Alerts of other tests are escalated too, once nobody looked at them for a minute.
        return bool(message.payload["alert_id"] == str(alert_id))

    first, second = on_call.wait(2, is_ours)[:2]
    assert [m.payload["told"] for m in (first, second)] == [1, 2]
    assert (first.priority, first.payload["message"], first.payload["alert_id"]) == (1, "hot", str(alert_id))
    subscriber.wait(2, is_ours)
    stage.run("update agent_alerts set status = 'acknowledged' where alert_id = %s", alert_id)
    until(
        lambda: stage.column(
            "select 1 from postbell_agents.orchestrator_escalations where alert_id = %s and ended_at is not null", alert_id
        ),
        "the end",
    )
    assert running.end() == 0


def test_two_that_believe_to_lead_do_not_write_over_each_other(mesh: Mesh, stage: Stage) -> None:
    config = stage.config(CONFIG)
    assert stage.once("orchestrator", config, mesh.who) == 0
    task_id = str(uuid4())
    connection = stage.connection
    store.insert(connection, task_id, "asker", task_id, Asked("t", mesh.needs, None, 60.0, 3), 5, fence=1)
    store.take_over(connection, 2)
    store.finish(connection, task_id, 1, Outcome(True, "late", None), fence=1)
    assert mesh.task(task_id)["status"] == "waiting"
    store.finish(connection, task_id, 1, Outcome(True, "good", None), fence=2)
    assert mesh.task(task_id)["result"] == "good"
    stage.run("delete from postbell_agents.orchestrator_tasks where task_id = %s", task_id)


def test_the_agent_is_known_by_what_it_can(mesh: Mesh, stage: Stage) -> None:
    who = stage.agent("validation")
    config = stage.config('[agent]\ncapabilities = ["sql"]\n' + CONFIG)
    assert stage.once("orchestrator", config, who) == 0
    assert stage.column("select capabilities from agent_registry where agent_id = %s", who.name) == [["orchestrator", "sql"]]

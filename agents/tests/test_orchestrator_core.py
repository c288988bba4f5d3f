"""Assignment without a database and without a clock."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from postbell_agents.faults import Fault
from postbell_agents.orchestrator.asked import Asked, Outcome, correlation, outcome, parse_correlation, read
from postbell_agents.orchestrator.assign import Assign, Fail, Step, Task, Terms, Wait, Worker, capabilities, plan

TERMS = Terms(grace_seconds=5, silent_seconds=60, wait_seconds=600, tasks_per_agent_max=4)
HERE = 3.0


def worker(agent_id: str, *can: str, environment: str = "pc", status: str = "online", ago: float | None = HERE) -> Worker:
    return Worker(agent_id, environment, frozenset(can), status, ago)


def task(n: int = 1, **values: Any) -> Task:
    base: dict[str, Any] = {
        "needs": "validate",
        "environment": None,
        "is_assigned": False,
        "assignment": 0,
        "assignments_max": 3,
        "agent_id": None,
        "assigned_seconds_ago": 0.0,
        "deadline_seconds": 30.0,
        "waiting_seconds": 0.0,
    }
    return Task(task_id=UUID(int=n), **{**base, **values})


def assigned(n: int = 1, **values: Any) -> Task:
    return task(n, **{"is_assigned": True, "assignment": 1, "agent_id": "a", "assigned_seconds_ago": 1.0, **values})


def to(steps: list[Step]) -> list[str]:
    assert all(isinstance(step, Assign) for step in steps)
    return [step.agent_id for step in steps if isinstance(step, Assign)]


def test_a_task_goes_to_who_can_do_it_where_it_is_wanted() -> None:
    workers = [
        worker("a", "report"),
        worker("b", "validate", environment="railway"),
        worker("c", "validate", environment="github"),
    ]
    assert to(plan([task()], workers, TERMS)) == ["b"]
    assert to(plan([task(environment="github")], workers, TERMS)) == ["c"]
    assert plan([task(environment="pc")], workers, TERMS) == []


def test_work_is_spread_over_those_who_can() -> None:
    workers = [worker(name, "validate") for name in "abc"]
    assert to(plan([task(n) for n in range(5)], workers, TERMS)) == ["a", "b", "c", "a", "b"]
    # Tasks that they have already count.
    busy = [assigned(10, agent_id="a"), assigned(11, agent_id="a"), assigned(12, agent_id="b")]
    assert to(plan([*busy, task(1), task(2), task(3)], workers, TERMS)) == ["c", "b", "c"]


def test_nobody_gets_more_than_it_can_do_before_their_deadlines() -> None:
    workers = [worker("a", "validate"), worker("b", "report")]
    tasks = [task(n, waiting_seconds=1e6) for n in range(10)]
    # The others wait, however long that takes: there is somebody who can.
    assert to(plan(tasks, workers, TERMS)) == ["a"] * 4
    full = [assigned(n) for n in range(4)]
    assert plan([*full, task(9)], workers, TERMS) == []


@pytest.mark.parametrize(
    "gone", [{"status": "offline"}, {"status": "error"}, {"status": "stopping"}, {"ago": 61.0}, {"ago": None}]
)
def test_who_is_not_here_gets_nothing(gone: dict[str, Any]) -> None:
    assert plan([task()], [worker("a", "validate", **gone)], TERMS) == []


def test_a_task_stays_with_who_has_it() -> None:
    workers = [worker("a", "validate"), worker("b", "validate")]
    assert plan([assigned()], workers, TERMS) == []
    # Gone for a moment: it may be back, and has its task still.
    assert plan([assigned()], [worker("a", status="offline", ago=4.0), worker("b", "validate")], TERMS) == []


@pytest.mark.parametrize(
    "a",
    [
        [worker("a", "validate", status="offline", ago=5.0)],
        [worker("a", "validate", ago=60.0)],
        [],
    ],
)
def test_what_the_dead_had_goes_to_another(a: list[Worker]) -> None:
    assert to(plan([assigned()], [*a, worker("b", "validate")], TERMS)) == ["b"]


def test_who_is_too_late_loses_it_and_gets_it_back_only_if_nobody_else_can() -> None:
    late = assigned(assigned_seconds_ago=30.0)
    assert to(plan([late], [worker("a", "validate"), worker("b", "validate")], TERMS)) == ["b"]
    assert to(plan([late], [worker("a", "validate")], TERMS)) == ["a"]


def test_a_task_whose_agent_died_waits_for_another() -> None:
    [step] = plan([assigned()], [worker("a", status="offline", ago=10.0)], TERMS)
    assert step == Wait(assigned(), "a is gone")


def test_a_task_fails_when_it_was_tried_often_enough_or_nobody_came() -> None:
    [step] = plan([assigned(assignment=3, assigned_seconds_ago=31.0)], [worker("a", "validate")], TERMS)
    assert isinstance(step, Fail) and step.reason == "a did not answer within 30 s; it was assigned 3 times"
    [step] = plan([task(waiting_seconds=600.0, environment="pc")], [], TERMS)
    assert isinstance(step, Fail) and step.reason == "no agent with the capability validate in pc was here for 600 s"
    assert plan([task(waiting_seconds=599.0)], [], TERMS) == []


def test_capabilities_as_agents_write_them() -> None:
    assert capabilities(["validate", 1, None]) == {"validate"}
    assert capabilities({"validate": True, "report": {"to": "mail"}, "fly": False, "swim": None}) == {"validate", "report"}
    assert capabilities(None) == capabilities("validate") == frozenset()


def test_what_a_task_is_asked_for_by() -> None:
    assert read({"task": 1, "needs": "x"}, deadline_seconds=30, assignments_max=3) == Asked(1, "x", None, 30.0, 3)
    whole = {"task": None, "needs": "x", "environment": "pc", "deadline_seconds": 5, "assignments_max": 1}
    assert read(whole, deadline_seconds=30, assignments_max=3) == Asked(None, "x", "pc", 5.0, 1)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "validate",
        {"needs": "x"},
        {"task": 1},
        {"task": 1, "needs": ""},
        {"task": 1, "needs": "x", "environment": 1},
        {"task": 1, "needs": "x", "deadline_seconds": 0},
        {"task": 1, "needs": "x", "deadline_seconds": True},
        {"task": 1, "needs": "x", "deadline_seconds": float("nan")},
        {"task": 1, "needs": "x", "assignments_max": 1.5},
    ],
)
def test_what_is_no_task(payload: Any) -> None:
    with pytest.raises(Fault):
        read(payload, deadline_seconds=30, assignments_max=3)


def test_what_a_worker_says_of_its_task() -> None:
    assert outcome({"ok": True, "result": [1]}) == Outcome(True, [1], None)
    assert outcome({"rows": 3}) == Outcome(True, {"rows": 3}, None)
    assert outcome({"ok": False, "error": "no disk"}) == Outcome(False, None, "no disk")
    assert outcome({"ok": False}).error == "it failed, and did not say why"


def test_answers_are_known_by_their_assignment() -> None:
    task_id = UUID(int=1)
    assert parse_correlation(correlation(task_id, 2)) == (str(task_id), 2)
    for other in (None, "", "x/1", str(task_id), f"{task_id}/x", f"{task_id}/1000000"):
        assert parse_correlation(other) is None

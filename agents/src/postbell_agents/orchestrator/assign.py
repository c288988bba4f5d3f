"""Decides who does what: tasks and agents in, steps out. No IO, no clock: ages are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

#: The status of an agent while it can take a task.
WORKING = ("online", "busy", "starting")


@dataclass(frozen=True)
class Terms:
    """When an agent counts as gone, and a task as hopeless."""

    #: An agent that said goodbye or lost its connection keeps its task for so long: it may be back in a moment.
    grace_seconds: float
    #: An agent that says it is here counts as gone once its heartbeat is older than this.
    silent_seconds: float
    #: A task that nobody can do is waited with for so long.
    wait_seconds: float
    #: At once; more would wait in the agent's inbox while their deadlines pass.
    tasks_per_agent_max: int


@dataclass(frozen=True)
class Worker:
    """An agent, as the registry has it."""

    agent_id: str
    environment: str
    capabilities: frozenset[str]
    status: str
    #: None: it was never here.
    heartbeat_seconds_ago: float | None

    def is_here(self, terms: Terms) -> bool:
        """Whether the worker can take a task."""
        ago = self.heartbeat_seconds_ago
        return self.status in WORKING and ago is not None and ago < terms.silent_seconds

    def is_gone(self, terms: Terms) -> bool:
        """Whether the worker's tasks go to other workers."""
        ago = self.heartbeat_seconds_ago
        limit = terms.silent_seconds if self.status in WORKING else terms.grace_seconds
        return ago is None or ago >= limit


@dataclass(frozen=True)
class Task:
    """One that is neither done nor failed."""

    task_id: UUID
    needs: str
    environment: str | None
    is_assigned: bool
    assignment: int
    assignments_max: int
    agent_id: str | None
    assigned_seconds_ago: float
    deadline_seconds: float
    #: Since nobody has it.
    waiting_seconds: float


@dataclass(frozen=True)
class Assign:
    """To this agent, as the next assignment."""

    task: Task
    agent_id: str


@dataclass(frozen=True)
class Wait:
    """Taken from an agent; nobody else can do it now."""

    task: Task
    reason: str


@dataclass(frozen=True)
class Fail:
    """Nobody will do it."""

    task: Task
    reason: str


Step = Assign | Wait | Fail


def plan(tasks: Iterable[Task], workers: Iterable[Worker], terms: Terms) -> list[Step]:
    """Decides what to do about tasks, given in the order of their urgency."""
    tasks = list(tasks)
    here = [worker for worker in workers if worker.is_here(terms)]
    by_id = {worker.agent_id: worker for worker in workers}
    load = Counter(task.agent_id for task in tasks if task.is_assigned)
    steps: list[Step] = []
    for task in tasks:
        lost = lost_because(task, by_id, terms) if task.is_assigned else None
        if task.is_assigned and lost is None:
            continue
        step = _next(task, lost, here, load, terms)
        if step is not None:
            steps.append(step)
            load[task.agent_id] -= 1 if task.is_assigned else 0
            if isinstance(step, Assign):
                load[step.agent_id] += 1
    return steps


def lost_because(task: Task, by_id: Mapping[str, Worker], terms: Terms) -> str | None:
    """Why an assigned task is not with its agent any more."""
    worker = by_id.get(task.agent_id or "")
    if worker is None:
        return f"{task.agent_id} is not registered any more"
    if worker.is_gone(terms):
        return f"{task.agent_id} is gone"
    if task.assigned_seconds_ago >= task.deadline_seconds:
        return f"{task.agent_id} did not answer within {task.deadline_seconds:g} s"
    return None


def _next(task: Task, lost: str | None, here: list[Worker], load: Mapping[str | None, int], terms: Terms) -> Step | None:
    if task.assignment >= task.assignments_max:
        reason = lost or f"its agents failed {task.assignment} times"
        return Fail(task, f"{reason}; it was assigned {task.assignment} times")
    able = [w for w in here if task.needs in w.capabilities and task.environment in (None, w.environment)]
    free = [w for w in able if load[w.agent_id] < terms.tasks_per_agent_max]
    # The worker that just had the task and could not gets it only if there is nobody else.
    others = [w for w in free if w.agent_id != task.agent_id] or free
    if others:
        return Assign(task, min(others, key=lambda w: (load[w.agent_id], w.agent_id)).agent_id)
    if not able and not task.is_assigned and task.waiting_seconds >= terms.wait_seconds:
        where = f" in {task.environment}" if task.environment else ""
        return Fail(task, f"no agent with the capability {task.needs}{where} was here for {terms.wait_seconds:g} s")
    return Wait(task, lost) if lost else None


def capabilities(value: Any) -> frozenset[str]:
    """As agents write them: a list of names, or an object whose keys are names, unless they are false."""
    if isinstance(value, list):
        return frozenset(one for one in value if isinstance(one, str))
    if isinstance(value, Mapping):
        return frozenset(name for name, is_so in value.items() if is_so not in (False, None))
    return frozenset()

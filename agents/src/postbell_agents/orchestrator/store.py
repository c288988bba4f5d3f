"""The orchestrator's state: everything it knows is in these rows, each with the fence of the one that wrote it last."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from ..database import Connection
from .asked import Asked, Outcome
from .assign import Assign, Fail, Step, Task, Wait, Worker, capabilities

#: Tasks looked at in one round; the next come in the next.
TASKS_MAX = 1000
#: Watched at once: more than the mesh's agents may have together.
ASSIGNED_MAX = 20_000


def take_over(connection: Connection, fence: int) -> None:
    """From now on those that led before change nothing that is open."""
    connection.execute(
        "update postbell_agents.orchestrator_tasks set fence = %s where answered_at is null and fence < %s", [fence, fence]
    )


def insert(
    connection: Connection, task_id: str, asked_by: str, correlation_id: str, asked: Asked, priority: int, fence: int
) -> None:
    """A task that was asked for; nothing where it is known."""
    connection.execute(
        """
        insert into postbell_agents.orchestrator_tasks
          (task_id, asked_by, correlation_id, task, needs, environment, priority, deadline_seconds, assignments_max, fence)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (task_id) do nothing
        """,
        [
            task_id,
            asked_by,
            correlation_id,
            Jsonb(asked.task),
            asked.needs,
            asked.environment,
            priority,
            asked.deadline_seconds,
            asked.assignments_max,
            fence,
        ],
    )


def open_tasks(connection: Connection) -> list[Task]:
    """Tasks that are neither done nor failed: the assigned ones, then those that wait, the most urgent first."""
    rows = connection.execute(
        """
        with open as (select * from postbell_agents.orchestrator_tasks where answered_at is null)
        select task_id, needs, environment, status = 'assigned' as is_assigned, assignment, assignments_max, agent_id,
               deadline_seconds, coalesce(extract(epoch from now() - assigned_at), 0)::float8 as assigned_seconds_ago,
               extract(epoch from now() - coalesce(assigned_at, created_at))::float8 as waiting_seconds
        from ((select * from open where status = 'assigned' order by assigned_at limit %s)
              union all
              (select * from open where status = 'waiting' order by priority, created_at limit %s)) o
        """,
        [ASSIGNED_MAX, TASKS_MAX],
    )
    return [Task(**row) for row in rows]


def workers(connection: Connection, schema: str) -> list[Worker]:
    """The registry's agents."""
    rows = connection.execute(
        sql.SQL(
            """
            select agent_id, environment, capabilities, status,
                   extract(epoch from now() - last_heartbeat)::float8 as heartbeat_seconds_ago
            from {}
            """
        ).format(sql.Identifier(schema, "agent_registry"))
    )
    return [
        Worker(
            row["agent_id"],
            row["environment"],
            capabilities(row["capabilities"]),
            row["status"],
            row["heartbeat_seconds_ago"],
        )
        for row in rows
    ]


def carry_out(connection: Connection, step: Step, fence: int) -> None:
    """Nothing where somebody else leads by now, or where the task was finished meanwhile."""
    match step:
        case Assign(task, agent_id):
            change = sql.SQL(
                "status = 'assigned', agent_id = %(agent_id)s, assignment = assignment + 1, assigned_at = now(), "
                "sent_at = null"
            )
            values: dict[str, Any] = {"agent_id": agent_id}
        case Wait(task, reason):
            # The task keeps when it was assigned: the wait is counted from there.
            change, values = sql.SQL("status = 'waiting', error = %(reason)s"), {"reason": reason}
        case Fail(task, reason):
            change, values = sql.SQL("status = 'failed', error = %(reason)s, finished_at = now()"), {"reason": reason}
    query = sql.SQL(
        """
        update postbell_agents.orchestrator_tasks set fence = %(fence)s, {}
        where task_id = %(task_id)s and fence <= %(fence)s and assignment = %(assignment)s
          and status in ('waiting', 'assigned')
        """
    )
    connection.execute(
        query.format(change), {**values, "fence": fence, "task_id": task.task_id, "assignment": task.assignment}
    )


def finish(connection: Connection, task_id: str, assignment: int, outcome: Outcome, fence: int) -> None:
    """A worker answered. A result counts whichever assignment it is of: the work is done. A failure only where it is the
    present one: it goes to another agent, or fails where it was tried often enough."""
    if outcome.is_ok:
        connection.execute(
            """
            update postbell_agents.orchestrator_tasks
            set status = 'done', result = %s, error = null, finished_at = now(), fence = %s
            where task_id = %s and fence <= %s and status in ('waiting', 'assigned')
            """,
            [Jsonb(outcome.result), fence, task_id, fence],
        )
        return
    connection.execute(
        """
        update postbell_agents.orchestrator_tasks
        set status = case when assignment >= assignments_max then 'failed' else 'waiting' end, error = %s, fence = %s,
            finished_at = case when assignment >= assignments_max then now() end
        where task_id = %s and fence <= %s and status = 'assigned' and assignment = %s
        """,
        [outcome.error, fence, task_id, fence, assignment],
    )


def unsent(connection: Connection) -> list[DictRow]:
    """Assignments whose command has yet to be sent."""
    return connection.execute(
        """
        select task_id, assignment, agent_id, task, priority, deadline_seconds
        from postbell_agents.orchestrator_tasks
        where answered_at is null and status = 'assigned' and sent_at is null order by priority, created_at limit %s
        """,
        [TASKS_MAX],
    ).fetchall()


def sent(connection: Connection, task_id: UUID, assignment: int, fence: int) -> None:
    """The command is on its way."""
    connection.execute(
        "update postbell_agents.orchestrator_tasks set sent_at = now() "
        "where task_id = %s and assignment = %s and fence <= %s",
        [task_id, assignment, fence],
    )


def unanswered(connection: Connection, schema: str) -> list[DictRow]:
    """Finished tasks whose asker has yet to be told, and which process of the asker's waits, by the message that asked."""
    return connection.execute(
        sql.SQL(
            """
            select t.task_id, t.asked_by, t.correlation_id, t.status, t.result, t.error, t.agent_id, t.assignment,
                   m.headers ->> 'reply_to' as reply_to
            from postbell_agents.orchestrator_tasks t left join {} m on m.message_id = t.task_id
            where t.answered_at is null and t.status in ('done', 'failed') order by t.finished_at limit %s
            """
        ).format(sql.Identifier(schema, "agent_messages")),
        [TASKS_MAX],
    ).fetchall()


def answered(connection: Connection, task_id: UUID, fence: int) -> None:
    """The asker was told."""
    connection.execute(
        "update postbell_agents.orchestrator_tasks set answered_at = now() where task_id = %s and fence <= %s",
        [task_id, fence],
    )


def forget(connection: Connection, days: int) -> None:
    """Deletes tasks that were answered, and escalations that ended, so many days ago."""
    connection.execute(
        "delete from postbell_agents.orchestrator_tasks where answered_at < now() - make_interval(days => %s)", [days]
    )
    connection.execute(
        "delete from postbell_agents.orchestrator_escalations where ended_at < now() - make_interval(days => %s)", [days]
    )

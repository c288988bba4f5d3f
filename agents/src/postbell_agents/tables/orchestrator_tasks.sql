-- The tasks that the orchestrator was asked for: all it knows, so that the next active one goes on where it stopped.
create table if not exists postbell_agents.orchestrator_tasks (
  -- The id of the message that asked: asking is idempotent.
  task_id           uuid primary key,
  asked_by          text not null,
  correlation_id    text not null,
  task              jsonb not null,
  needs             text not null,
  environment       text,
  priority          integer not null,
  deadline_seconds  double precision not null,
  assignments_max   integer not null,
  status            text not null default 'waiting' check (status in ('waiting', 'assigned', 'done', 'failed')),
  -- The present assignment, counted from 1.
  assignment        integer not null default 0,
  agent_id          text,
  assigned_at       timestamptz,
  -- Null: the command of this assignment has yet to be sent.
  sent_at           timestamptz,
  result            jsonb,
  error             text,
  finished_at       timestamptz,
  -- Null: whoever asked has yet to be told.
  answered_at       timestamptz,
  -- The fence of the orchestrator that wrote last: one whose lock was taken over meanwhile writes no more.
  fence             bigint not null,
  created_at        timestamptz not null default now()
);
create index if not exists orchestrator_tasks_open on postbell_agents.orchestrator_tasks (created_at)
  where answered_at is null;

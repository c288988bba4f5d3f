-- Alerts that nobody acknowledged and that the orchestrator tells again, until somebody does or it told them often enough.
create table if not exists postbell_agents.orchestrator_escalations (
  alert_id   uuid primary key,
  alert      jsonb not null,
  told       integer not null default 0,
  told_at    timestamptz,
  ended_at   timestamptz,
  created_at timestamptz not null default now()
);
create index if not exists orchestrator_escalations_open on postbell_agents.orchestrator_escalations (created_at)
  where ended_at is null;

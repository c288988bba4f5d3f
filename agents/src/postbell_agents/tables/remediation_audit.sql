-- The changes that the remediation agent made, or would have made: one row a message and fix, written in the transaction of the change.
-- The key makes a message that is delivered twice change nothing the second time.
create table if not exists postbell_agents.remediation_audit (
  message_id  text not null,
  fix         text not null,
  agent_id    text not null,
  asked_by    text not null,
  dry_run     boolean not null,
  rows        integer not null,
  -- [{"before": {…}, "after": {…}}]; after is null where the row was deleted.
  changes     jsonb not null,
  applied_at  timestamptz not null default now(),
  primary key (message_id, fix)
);
create index if not exists remediation_audit_applied_at on postbell_agents.remediation_audit (applied_at);

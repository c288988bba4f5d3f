-- Which days' summaries a reporting agent has delivered, so that a restart, or a second one, does not send them again.
create table if not exists postbell_agents.reporting_summaries (
  agent_id  text not null,
  day       date not null,
  sent_at   timestamptz not null default now(),
  primary key (agent_id, day)
);

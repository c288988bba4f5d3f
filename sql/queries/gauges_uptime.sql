-- How much of the last day each agent was here.
-- Called by src/store/gauges.rs at most once a minute, when somebody asks for the metrics. Uses presence_history_agent for each
-- agent.
-- $1 agents_max bigint
select agent_id, coalesce(environment, 'unknown') as environment, uptime from agent_uptime(interval '24 hours') where uptime is not null limit $1::bigint

-- Every agent that may connect, with its environment.
-- Called by src/store/gauges.rs, when somebody asks for the metrics. Walks the registry.
-- $1 agents_max bigint
select agent_id, coalesce(environment, 'unknown') as environment from agent_registry where enabled is not false order by agent_id limit $1::bigint

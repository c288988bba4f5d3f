-- Every agent that may connect, with its environment, at most $1 of them. Called by src/store/gauges.rs. Walks
-- the registry.
select agent_id, coalesce(environment, 'unknown') as environment from agent_registry where enabled is not false order by agent_id limit $1::bigint

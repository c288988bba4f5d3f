-- The index of migration 0014 on an agent_metrics that holds rows already: built while its writers go on, on each part where the
-- table is partitioned, so that the migration finds it.
create index concurrently if not exists agent_metrics_recorded_at on agent_metrics (recorded_at);

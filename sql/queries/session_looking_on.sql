-- The planner of a connection that looks on: gauges, status page, doctor, lists of dead letters. Called by
-- src/store/connection.rs, after session.sql. These statements count and sort, so the server's own planner chooses, with each
-- statement's own parameters. The page cost is that of tables in memory or on a solid-state disk.
set plan_cache_mode = 'force_custom_plan';
set random_page_cost = 1.1;

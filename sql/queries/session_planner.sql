-- The planner of a connection that delivers. Called by src/store/connection.rs, after session.sql.
-- Every such statement is meant to walk one index from a known place; a generic plan that guesses a third of a table of
-- millions, or was made while the table was empty, would take another way at the worst moment (tests/it/plans.rs).
-- A bitmap reads all that is due before the first row is handed out. The page cost: with a long inbox the planner saw
-- that its rows lie in the order of the primary key, and walked that, past every row of the other lanes; the narrowest
-- index must win wherever the rows lie. An index that gives the order is worth more than one that needs a sort.
-- Memoize (Postgres 14) would remember messages that a refill asks for once.
set enable_indexscan = on;
set enable_indexonlyscan = on;
set enable_nestloop = on;
set enable_material = on;
set enable_seqscan = off;
set enable_hashjoin = off;
set enable_mergejoin = off;
set enable_bitmapscan = off;
set enable_sort = off;
set random_page_cost = 0.1;
select set_config(name, 'off', false) from pg_settings where name = 'enable_memoize';
set plan_cache_mode = 'force_generic_plan';

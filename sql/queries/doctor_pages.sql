-- How many pages agent_registry has.
-- Called by src/store/doctor/mesh.rs. Reads no row.
select pg_relation_size('agent_registry') / current_setting('block_size')::bigint as pages

-- How many agents are registered, and which enabled ones have no token, so that they cannot connect.
-- Called by src/store/doctor/mesh.rs. Reads agent_registry whole.
select count(*) as registered,
       coalesce(array_agg(agent_id::text order by agent_id)
                filter (where token_hash is null and enabled is not false), '{}') as without_token
from agent_registry

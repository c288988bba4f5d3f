-- How many agents are registered, and which enabled agents have no token and so cannot connect.
-- Called by src/store/doctor/mesh.rs. Reads agent_registry whole.
select count(*) as registered,
       coalesce(array_agg(agent_id::text order by agent_id)
                filter (where token_hash is null and enabled is not false), '{}') as without_token
from agent_registry

-- Says what doctor_agents.sql says, of the rows between two places.
-- Called by src/store/doctor/mesh.rs, after that statement was refused. Scans these places only, so no other row is read.
-- $1 from text: such as (0,1)
-- $2 to text
select count(*) as registered,
       coalesce(array_agg(agent_id::text order by agent_id)
                filter (where token_hash is null and enabled is not false), '{}') as without_token
from agent_registry
where ctid >= $1::text::tid and ctid < $2::text::tid

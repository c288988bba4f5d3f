-- Which of the sessions here may not stay, one row for each. Each array has one element a session. `may_connect`: only its role
-- changed, or who may take from its group, so that the agent may come again.
-- Called by src/store/access.rs. Uses agent_registry's primary key for each.
-- $1 sessions bigint[]
-- $2 agents text[]
-- $3 token_hashes bytea[]: SHA-256 of the tokens that they came in with
-- $4 roles text[]: as they were at the hello
-- $5 groups text[]: the group that a session takes from, or null
select s.session, coalesce(r.may_connect, false) as may_connect
from unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[], $5::text[])
     as s (session, agent, token_hash, role, in_group)
left join lateral (
  select coalesce(a.role, 'agent') as role,
         a.enabled is not false
           and (a.token_hash is not distinct from s.token_hash
                or a.token_previous_until > now() and a.token_hash_previous is not distinct from s.token_hash)
           as may_connect,
         s.in_group is null or postbell.may_use('group', s.in_group, s.agent, coalesce(a.role, 'agent')) as may_take
  from agent_registry a where a.agent_id = any (array[s.agent]) offset 0
) r on true
where r.may_connect is not true or r.may_take is not true or r.role is distinct from s.role

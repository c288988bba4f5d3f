-- Whether an agent may take from a group, or hold a lock.
-- Called by src/store/grants.rs. Uses the primary keys of grants and role_limits.
-- $1 kind text
-- $2 name text
-- $3 agent text
-- $4 role text: the agent's
select postbell.may_use($1::text, $2::text, $3::text, $4::text) as may

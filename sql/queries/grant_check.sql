-- Whether an agent may take from a group, or hold a lock: $1 kind, $2 name, $3 agent, $4 its role. Called by
-- src/store/grants.rs. Uses the primary keys of grants and role_limits.
select postbell.may_use($1::text, $2::text, $3::text, $4::text) as may

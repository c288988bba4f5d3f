-- Allows an agent to take from a group, or to hold a lock.
-- Called by src/store/grants.rs for the command. Uses grants' primary key.
-- $1 kind text
-- $2 name text
-- $3 agent text
insert into postbell.grants (kind, name, agent_id) values ($1::text, $2::text, $3::text) on conflict do nothing

-- An agent may take from a group, or hold a lock: $1 kind, $2 name, $3 agent. Called by src/store/grants.rs for the
-- command. Uses grants' primary key.
insert into postbell.grants (kind, name, agent_id) values ($1::text, $2::text, $3::text) on conflict do nothing

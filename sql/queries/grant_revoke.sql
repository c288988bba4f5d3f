-- Takes back what grant_allow.sql allowed.
-- Called by src/store/grants.rs for the command. Uses grants' primary key.
-- $1 kind text
-- $2 name text
-- $3 agent text: null for all of them
delete from postbell.grants
where kind = $1::text and name = $2::text and ($3::text is null or agent_id = $3::text)

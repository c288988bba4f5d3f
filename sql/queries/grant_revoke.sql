-- Takes that back: $1 kind, $2 name, $3 agent (null: all of them). Called by src/store/grants.rs for the command. Uses
-- grants' primary key.
delete from postbell.grants
where kind = $1::text and name = $2::text and ($3::text is null or agent_id = $3::text)

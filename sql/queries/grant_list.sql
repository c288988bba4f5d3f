-- Who was allowed what: $1 kind. Called by src/store/grants.rs for the command. Uses grants' primary key.
select name, agent_id from postbell.grants where kind = $1::text order by name, agent_id

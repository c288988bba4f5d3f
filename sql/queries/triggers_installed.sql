-- The triggers that are there, each with the digest of the text it was made from. Called by
-- src/postgres/migrate.rs.
select t.name, t.sha256
from postbell.triggers t
join pg_trigger g on g.tgname = 'postbell_' || t.name and not g.tgisinternal
where g.tgrelid = to_regclass('agent_messages')

-- Asks about an insert whose connection was lost: whether this server takes writes, and which of the messages are stored, by a
-- COMMIT whose answer was lost.
-- Called by src/store/publish.rs. Uses agent_messages' primary key.
-- $1 messages uuid[]
select pg_is_in_recovery() as is_standby,
       array(select m.message_id
             from unnest($1::uuid[]) as p (id)
             cross join lateral (select m.message_id from agent_messages m where m.message_id = any (array[p.id]) offset 0) m) as stored

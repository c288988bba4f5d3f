-- Which of these messages are there: a rule may have kept one out without an error.
-- Called by src/store/publish/plain.rs. Uses agent_messages' primary key.
-- $1 messages uuid[]
select m.message_id
from unnest($1::uuid[]) as p (id)
cross join lateral (select m.message_id from agent_messages m where m.message_id = any (array[p.id]) offset 0) m

-- Marks messages that have been with an agent for longer than a second. The mark is a hint for people and pollers, so a crash of
-- the server may lose it, and a row that somebody holds goes without.
-- Called by src/store/settle.rs. Uses agent_messages' primary key.
-- $1 messages uuid[]
update agent_messages set status = 'delivered', delivered_at = coalesce(delivered_at, now())
where message_id = any (array(select message_id from agent_messages
                              where message_id = any ($1::uuid[]) and coalesce(status, 'pending') = 'pending'
                              for no key update skip locked))

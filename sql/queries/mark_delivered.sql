-- Longer than a second with an agent: a hint for people and pollers, so it may be lost in a crash of the server, and a row
-- that somebody holds goes without. $1 message ids. Called by src/store/settle.rs. Uses agent_messages' primary key.
update agent_messages set status = 'delivered', delivered_at = coalesce(delivered_at, now())
where message_id = any (array(select message_id from agent_messages
                              where message_id = any ($1::uuid[]) and coalesce(status, 'pending') = 'pending'
                              for no key update skip locked))

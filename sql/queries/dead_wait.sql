-- Makes the messages of dead letters wait again, before dead_ready.sql. A statement of its own, since a rule may be on agent_messages.
-- Called by src/store/dead/ruled.rs. Uses the primary keys.
-- $1 deliveries bigint[]
update agent_messages
set status = 'pending', processed_at = null, error_message = null
where message_id = any (array(select d.message_id from postbell.deliveries d where d.delivery_id = any ($1::bigint[])))

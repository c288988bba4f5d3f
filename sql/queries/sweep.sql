-- Makes up for messages that were written while our triggers did not fire. Says how much of what was noted it took, how many
-- deliveries became ready, and whether all messages must be looked at.
-- Called by src/store/sweep.rs, every two seconds unless the broker is at rest. Uses the primary keys of unseen and agent_messages, and deliveries_message;
-- where nothing was noted, the catalog's.
-- $1 messages_max integer
-- $2 left_out bigint[]: notes that could not be taken a moment ago
select took, ready, postbell.must_look() as look from postbell.sweep_these(postbell.noted($1::integer, $2::bigint[]))

-- The same as reap_expired.sql, one by one, after that was refused: $1 at most so many, $2 milliseconds of grace. What the
-- rows do not take is set aside. Called by src/store/reap.rs. Uses agent_messages_expires and deliveries_message.
select expired from postbell.expire_each($1::bigint, $2::bigint)

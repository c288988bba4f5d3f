-- Does the same as reap_expired.sql one by one, after that statement was refused. Changes that a row does not take are set aside.
-- Called by src/store/reap.rs. Uses agent_messages_expires and deliveries_message.
-- $1 rows_max bigint
-- $2 grace_ms bigint
select expired from postbell.expire_each($1::bigint, $2::bigint)

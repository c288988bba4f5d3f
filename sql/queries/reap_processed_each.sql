-- Does the same as reap_processed.sql one by one, after that statement was refused.
-- Called by src/store/reap/older.rs. Uses the index on created_at and deliveries_message.
-- $1 kept_seconds bigint
-- $2 rows_max bigint
select removed from postbell.remove_each($1::bigint, $2::bigint)

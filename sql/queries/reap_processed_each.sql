-- The same as reap_processed.sql, one by one, after that was refused: $1 seconds, $2 at most so many. Called by
-- src/store/reap.rs. Uses the index on created_at and deliveries_message.
select removed from postbell.remove_each($1::bigint, $2::bigint)

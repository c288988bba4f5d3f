-- The notes that sweep.sql would take, after that statement failed; and whether all messages must be looked at.
-- Called by src/store/sweep.rs. Uses the primary key of unseen, and the catalog's.
-- $1 messages_max integer
-- $2 left_out bigint[]: notes that could not be taken a moment ago
select postbell.noted($1::integer, $2::bigint[]) as notes, postbell.must_look() as look

-- Does the same as sweep.sql row by row, after that statement failed.
-- Called by src/store/sweep.rs. Uses the same indexes.
-- $1 messages_max integer
select took, ready, look from postbell.sweep_each($1::integer)

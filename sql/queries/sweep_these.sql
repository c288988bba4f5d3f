-- Takes these notes, as sweep.sql does, after that statement failed.
-- Called by src/store/sweep.rs. Uses the same indexes.
-- $1 notes bigint[]
select took, ready from postbell.sweep_these($1::bigint[])

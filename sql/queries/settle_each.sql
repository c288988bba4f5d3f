-- Outcomes one by one, after a statement for all was refused: $1 kinds (ack, retry, dead, expired), $2 delivery ids,
-- $3 attempts, $4 how many attempts to add, $5 delays in milliseconds, $6 reasons; $7 for how many milliseconds the user's rows
-- are tried, $8 the reason of those that are set aside untried. Called by src/store/settle.rs. See
-- sql/migrations/0016_set_aside.sql. Uses the primary keys.
select delivery_id, became, why
from postbell.settle_each($1::text[], $2::bigint[], $3::smallint[], $4::smallint[], $5::bigint[], $6::text[], $7::integer,
                          $8::text)

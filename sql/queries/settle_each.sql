-- Writes outcomes one by one, after a statement for all was refused. See sql/migrations/0016_set_aside.sql.
-- Called by src/store/settle.rs. Uses the primary keys.
-- $1 kinds text[]: ack, retry, dead, expired
-- $2 deliveries bigint[]
-- $3 attempts smallint[]
-- $4 added smallint[]: how many attempts to add
-- $5 delays_ms bigint[]
-- $6 reasons text[]
-- $7 time_ms integer: how long the user's rows are tried
-- $8 untried_reason text: of outcomes that are set aside untried
select delivery_id, became, why
from postbell.settle_each($1::text[], $2::bigint[], $3::smallint[], $4::smallint[], $5::bigint[], $6::text[], $7::integer,
                          $8::text)

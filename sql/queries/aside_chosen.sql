-- The numbers of rows that are set aside, to be tried or dropped.
-- Called by src/store/aside.rs. Walks the primary key.
-- $1 numbers bigint[]: only these; null for any
-- $2 inbox text: only of this one; null for any
-- $3 after bigint
-- $4 rows_max bigint
select aside_id from postbell.set_aside
where dropped_at is null and message_id is not null and ($1::bigint[] is null or aside_id = any ($1))
  and ($2::text is null or inbox = $2) and aside_id > $3::bigint
order by aside_id limit $4::bigint

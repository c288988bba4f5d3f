-- The numbers of what is set aside, to be tried or dropped: $1 these, $2 of this inbox, after $3, at most $4. Called by
-- src/store/aside.rs. Walks the primary key.
select aside_id from postbell.set_aside
where dropped_at is null and message_id is not null and ($1::bigint[] is null or aside_id = any ($1))
  and ($2::text is null or inbox = $2) and aside_id > $3::bigint
order by aside_id limit $4::bigint

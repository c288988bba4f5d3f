-- Forgets presence that was not refused again for a minute, and rows whose message is no more.
-- Called by src/store/forgetting.rs, once a minute. Reads set_aside whole.
-- $1 rows_max bigint
-- $2 skipped bigint: so many rows before these took no change
delete from postbell.set_aside s
where aside_id = any (array(
  select aside_id from postbell.set_aside w
  where case when w.kind = 'presence' then w.next_try < now() - interval '1 minute'
             else postbell.is_readable(w.message_id)
                  and not exists (select from agent_messages m where m.message_id = w.message_id offset 0) end
  order by w.aside_id limit $1::bigint offset $2::bigint))

-- Does the same as reap_broadcasts.sql one by one, after that statement failed, and without messages that cannot be read. A message
-- whose row does not take the status is set aside. Says how many are over.
-- Called by src/store/reap.rs. Uses the same indexes.
-- $1 rows_max bigint
select count(*) as n, count(a.put_aside) as aside
from postbell.found_readable(format(
  'select m.message_id from agent_messages m
   where m.created_at between $1 and $2 and m.message_id between $3 and $4
     and coalesce(m.to_agent_id, m.to_group) is null and m.created_at < now() - interval ''1 hour''
     and coalesce(m.status, ''pending'') in (''pending'', ''delivered'')
     and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
     and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
   limit %s for no key update skip locked', $1::bigint), clock_timestamp() + interval '1 second') f (id)
cross join lateral (select postbell.write_outcome(f.id, 'processed', null) as why offset 0) w
left join lateral (
  select postbell.put_aside(f.id, null, '*', 'ack', 'processed', null, w.why, interval '30 seconds') where w.why is not null offset 0
) a on true

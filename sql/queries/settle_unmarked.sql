-- Sets messages aside, to be tried again soon, whose rows did not change when their outcomes were written, though no error said
-- so: a trigger or a rule may keep a change out, or the last two recipients of a broadcast settled in the same instant at two
-- brokers.
-- Called by src/store/settle.rs. Uses agent_messages' primary key and deliveries_message.
-- $1 messages uuid[]
-- $2 kind text: of the outcomes: ack, dead, expired
insert into postbell.set_aside (message_id, delivery_id, inbox, kind, status, error_message, reason, next_try)
select m.message_id, d.delivery_id, coalesce(m.to_agent_id, 'group:' || m.to_group, '*'), $2::text,
       case when $2 = 'ack' then 'processed' else 'failed' end,
       case $2 when 'dead' then d.last_error when 'expired' then 'expired before it was delivered' end,
       'a trigger or a rule of agent_messages keeps the change out without an error: let it pass what sessions with the '
         'setting postbell.broker = on write',
       now() + interval '1 second'
from unnest($1::uuid[]) as u (message_id)
cross join lateral (select * from agent_messages m where m.message_id = any (array[u.message_id]) offset 0) m
left join lateral (
  select w.delivery_id, w.last_error from postbell.deliveries w where w.message_id = any (array[u.message_id]) limit 1
) d on true
where coalesce(m.status, 'pending') in ('pending', 'delivered')
  and case when coalesce(m.to_agent_id, m.to_group) is null then $2 = 'ack' and d.delivery_id is null else true end
on conflict (message_id, inbox) where message_id is not null do nothing

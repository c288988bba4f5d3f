-- Makes the deliveries of messages that wait although no trigger routed them: those of a mesh that is adopted, and those that
-- came in while the trigger was gone. The rules are those of triggers/route.sql, the order is that of creation, and expired
-- messages are left out.
-- Called by src/store/migrate/triggers.rs in the transaction that makes the trigger, so that no insert slips in between.
-- Reads agent_messages whole, once; uses deliveries_message.
insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
select m.message_id, r.inbox,
       case when m.to_instance is null then least(greatest(coalesce(m.priority, 5), 1), 10) else 0 end,
       case when m.deliver_at > now() then 'scheduled' else 'ready' end::postbell.delivery_state,
       case when m.deliver_at > now() then m.deliver_at end,
       case when octet_length(m.ordering_key) > 200 then md5(m.ordering_key) else m.ordering_key end
from agent_messages m
cross join lateral (
  -- An agent of an adopted mesh may have the name of a group's inbox, which is not its.
  select coalesce(case when starts_with(m.to_agent_id, 'group:') then 'agent:' || m.to_agent_id else m.to_agent_id end,
                  'group:' || m.to_group) as inbox where m.to_agent_id is not null or m.to_group is not null
  union all
  select f.inbox from postbell.recipients(coalesce(m.from_agent_id, ''), m.topic, m.to_environment) f (inbox)
  where m.to_agent_id is null and m.to_group is null and not starts_with(f.inbox, 'group:')
) r
where coalesce(m.status, 'pending') = 'pending'
  -- The router's.
  and not postbell.is_left(m.left_txid)
  and (m.expires_at is null or m.expires_at > now())
  and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
  and not exists (select from postbell.broadcasts b where b.message_id = m.message_id)
order by m.created_at, m.message_id, r.inbox

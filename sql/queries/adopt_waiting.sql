-- Deliveries for the messages that wait although no trigger routed them: those of a mesh that is adopted, or that
-- came in while the trigger was gone. By the same rules as triggers/route.sql, in the order of their creation; what
-- has expired is left out. Called by src/postgres/migrate/triggers.rs in the transaction that makes the trigger,
-- which lets no insert slip in between. Reads agent_messages whole, once; uses deliveries_message.
insert into postbell.deliveries (message_id, inbox, priority, state, due_at)
select m.message_id, r.inbox,
       case when m.to_instance is null then least(greatest(coalesce(m.priority, 5), 1), 10) else 0 end,
       case when m.deliver_at > now() then 'scheduled' else 'ready' end::postbell.delivery_state,
       case when m.deliver_at > now() then m.deliver_at end
from agent_messages m
cross join lateral (
  select coalesce(m.to_agent_id, 'group:' || m.to_group) as inbox where m.to_agent_id is not null or m.to_group is not null
  union all
  select f.inbox from postbell.recipients(coalesce(m.from_agent_id, ''), m.topic, m.to_environment) f (inbox)
  where m.to_agent_id is null and m.to_group is null
) r
where coalesce(m.status, 'pending') = 'pending'
  and (m.expires_at is null or m.expires_at > now())
  and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
  and not exists (select from postbell.broadcasts b where b.message_id = m.message_id)
order by m.created_at, m.message_id, r.inbox

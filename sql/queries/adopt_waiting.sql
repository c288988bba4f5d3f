-- Deliveries for the messages that wait although no trigger routed them: those of a mesh that is adopted, or that
-- came in while the trigger was gone; says how many. What has expired is left out. Called by
-- src/postgres/migrate/triggers.rs in the transaction that makes the trigger, which lets no insert slip in between. Reads
-- agent_messages whole, once; uses deliveries_message.
select postbell.route_again(array(
  select m.message_id from agent_messages m
  where coalesce(m.status, 'pending') = 'pending' and (m.expires_at is null or m.expires_at > now())
    and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
  order by m.created_at, m.message_id)) as deliveries

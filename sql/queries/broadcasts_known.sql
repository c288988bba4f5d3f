-- Messages to many that triggers of older versions routed: noted as routed, once, when the first trigger that notes them itself
-- is made, in its transaction, which lets no insert slip in between. Called by src/postgres/migrate/triggers.rs. Reads
-- agent_messages whole.
insert into postbell.broadcasts (message_id)
select message_id from agent_messages
where coalesce(to_agent_id, to_group) is null and coalesce(status, 'pending') in ('pending', 'delivered')
  and not exists (select from postbell.looked)
on conflict do nothing

-- Messages to many that wait were routed: by triggers of older versions, noted once, when the first trigger that notes them itself
-- is made; or, where $1, just now. Called by src/store/migrate/triggers.rs in the transaction that makes the trigger, which
-- lets no insert slip in between. Reads agent_messages whole.
insert into postbell.broadcasts (message_id)
select message_id from agent_messages
where coalesce(to_agent_id, to_group) is null and coalesce(status, 'pending') in ('pending', 'delivered')
  and ($1::boolean or not exists (select from postbell.looked))
on conflict do nothing

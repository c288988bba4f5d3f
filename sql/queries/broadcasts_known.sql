-- Notes that waiting messages to many were routed: by triggers of older versions, once, when the first trigger that notes this
-- itself is made.
-- Called by src/store/migrate/triggers.rs in the transaction that makes the trigger, so that no insert slips in between. Reads
-- agent_messages whole.
-- $1 just_routed boolean: they were routed just now, so they are noted whatever is recorded
insert into postbell.broadcasts (message_id)
select message_id from agent_messages
where coalesce(to_agent_id, to_group) is null and coalesce(status, 'pending') in ('pending', 'delivered')
  and ($1::boolean or not exists (select from postbell.looked))
on conflict do nothing

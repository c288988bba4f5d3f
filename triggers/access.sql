-- After an UPDATE of what a hello is checked against, or a DELETE, on agent_registry: the brokers look at once whether
-- the agents they serve may stay, also where psql did it. A hint, as every notification: their heartbeats notice it
-- too, within ten seconds. Presence, which is written often, names none of these columns and does not fire it.

create or replace function postbell.announce_access() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'DELETE'
     or (old.agent_id, old.enabled, old.role, old.token_hash, old.token_hash_previous, old.token_previous_until)
        is distinct from
        (new.agent_id, new.enabled, new.role, new.token_hash, new.token_hash_previous, new.token_previous_until) then
    -- Without a payload, so that a transaction notifies once, however many agents it changes.
    perform pg_notify('postbell_access', '');
  end if;
  return null;
end
$$;
revoke all on function postbell.announce_access() from public;

drop trigger if exists postbell_access on agent_registry;
create trigger postbell_access
  after delete or update of agent_id, enabled, role, token_hash, token_hash_previous, token_previous_until
  on agent_registry
  for each row execute function postbell.announce_access();

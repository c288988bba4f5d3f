-- Before INSERT on agent_messages: says whether the rows of this statement are left to the router, which makes their deliveries right
-- after the commit, or routed by triggers/route.sql within it. They are left while the router says so (postbell.routed, which it
-- writes forward while the mesh is busy), and for two seconds more where a message that was left is in sight and not routed: a
-- delivery that is made here would overtake that message. The defaults of agent_messages.left_txid and .left_at do what is said here.
-- The setting postbell.left is the transaction's: '1': this statement's rows are left; '0': an earlier one's were; '2': it has routed
-- those itself, so it routes all others as well.

create or replace function postbell.leave_messages() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  until bigint := pg_sequence_last_value(to_regclass('postbell.routed'));
  here bigint;
  leaves boolean := false;
  before text := current_setting('postbell.left', true);
begin
  if before = '2' then
    return null;
  end if;
  if until > 0 and until + 2000 >= floor(date_part('epoch', clock_timestamp()) * 1000) and to_regclass('postbell.intact') is not null then
    -- The transaction has its id before it reads the sequence: a router that stops waits for the transactions that it then sees.
    perform pg_current_xact_id();
    until := pg_sequence_last_value('postbell.routed'::regclass);
    here := floor(date_part('epoch', clock_timestamp()) * 1000);
    leaves := until > here or until > 0 and until + 2000 >= here and postbell.shows_left();
  end if;
  if not leaves then
    if before = '1' then
      perform set_config('postbell.left', '0', true);
    end if;
    return null;
  end if;
  if before is distinct from '1' then
    perform set_config('postbell.left', '1', true);
  end if;
  -- Counted from the first statement of the transaction that leaves: the server counts a session's rows over many.
  if coalesce(before, '') = '' then
    perform set_config('postbell.left_to', (pg_stat_get_xact_tuples_inserted(tg_relid) + 100)::text, true);
  end if;
  return null;
end
$$;
revoke all on function postbell.leave_messages() from public;

drop trigger if exists postbell_leave on agent_messages;
create trigger postbell_leave
  before insert on agent_messages
  for each statement execute function postbell.leave_messages();

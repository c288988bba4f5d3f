-- What a single-row INSERT paid for although it need not. Figures in src/ARCHITECTURE.md.

-- A function in SQL is parsed and planned anew in each statement that calls it (before Postgres 18), PL/pgSQL keeps
-- its plan in the session. Everything is named with its schema, so that it needs no search_path of its own, which
-- would cost once a call.
create or replace function postbell.uuid_v7() returns uuid
language plpgsql volatile parallel safe
as $$
begin
  return pg_catalog.encode(
    pg_catalog.set_bit(pg_catalog.set_bit(
      pg_catalog.substring(pg_catalog.int8send(
          (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
             operator(pg_catalog.*) 1000::pg_catalog.float8)::pg_catalog.int8), 3)
        operator(pg_catalog.||) pg_catalog.substring(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), 7),
      52, 1), 53, 1),
    'hex')::pg_catalog.uuid;
end
$$;

-- Read from the catalog and compiled in each statement that writes a row, not once a session: 7 of the trigger's 60 µs.
-- Nobody but Postbell's own statements may write here; tests/it/mesh.rs puts the checks back for its tests.
alter table postbell.deliveries
  drop constraint deliveries_check, drop constraint deliveries_check1, drop constraint deliveries_priority_check;

-- Until when somebody sleeps, in seconds since 1970: the latest lease of an armed broker, or 0. A sequence and not a row,
-- because setval is seen by everyone at once, whatever their snapshots, and leaves no old versions: a row that is renewed
-- each second, while some transaction elsewhere stays open, is soon thousands of versions that each insert walks.
create sequence postbell.bell minvalue 0;
revoke all on sequence postbell.bell from public;

-- Sets brokers.armed of one broker, and postbell.bell to what that makes of all of them.
create function postbell.arm(broker uuid, sleeps boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- Others see it at once; and a crash of the server ends the broker's connection anyway.
  perform set_config('synchronous_commit', 'off', true);
  -- One at a time until the commit: whoever comes next counts what this one wrote.
  perform pg_advisory_xact_lock(hashtextextended('postbell.bell', 0));
  update postbell.brokers set armed = sleeps where broker_id = broker;
  perform setval('postbell.bell', coalesce(
    (select ceil(extract(epoch from max(lease_until)))::bigint
     from postbell.brokers where armed and lease_until > clock_timestamp()), 0));
end
$$;
revoke all on function postbell.arm(uuid, boolean) from public;

-- A table that Postbell made keeps half of each page free: acknowledgements come in the order of the rows, so a batch
-- marks all rows of a page in one transaction, and each needs room for its second version there. With 15 % free one mark
-- in six was a HOT update, with 50 % 94 in 100 are. An adopted table keeps what it has.
do $$
begin
  if exists (select from pg_class where oid = 'agent_messages'::regclass and 'fillfactor=85' = any (reloptions)) then
    alter table agent_messages set (fillfactor = 50);
  end if;
end $$;

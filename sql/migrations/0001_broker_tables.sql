-- The broker's own tables, in a schema that no API role may read or write.
-- `create schema postbell` and postbell.migrations are made by sql/queries/migrations_bootstrap.sql.

revoke all on schema postbell from public;

-- Time-ordered ids (RFC 9562, version 7): 48 bits of Unix milliseconds, then random bits. New rows land at
-- the right edge of the primary key instead of dirtying a random page each. Postgres 18 has uuidv7(); this
-- serves 13 to 17 too. Taking version 4's random bits and setting two more bits turns 4 (0100) into 7 (0111).
create function postbell.uuid_v7() returns uuid
language sql volatile parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select encode(
    set_bit(set_bit(
      substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
        || substring(uuid_send(gen_random_uuid()) from 7),
      52, 1), 53, 1),
    'hex')::uuid
$$;

-- ready:     may be pushed now; the tail (by txid) and the lanes (by delivery_id) read it.
-- scheduled: becomes ready at due_at (a delayed message, or a retry that waits).
-- dead:      a dead letter; leaves only by redrive or purge.
create type postbell.delivery_state as enum ('ready', 'scheduled', 'dead');

-- One narrow row per message and recipient. Columns are ordered by alignment: fixed 8 and 16 bytes first.
create table postbell.deliveries (
  delivery_id bigint generated always as identity primary key,
  -- The transaction that made the row ready: what the tail reads by. Set anew whenever it is ready again.
  txid        xid8 not null default pg_current_xact_id(),
  message_id  uuid not null,
  due_at      timestamptz,
  dead_at     timestamptz,
  state       postbell.delivery_state not null default 'ready',
  priority    smallint not null check (priority between 1 and 10),
  -- How many deliveries went wrong so far.
  attempt     smallint not null default 0,
  inbox       text not null,
  last_error  text,
  check ((state = 'scheduled') = (due_at is not null)),
  check ((state = 'dead') = (dead_at is not null))
) with (
  -- Rows live for milliseconds: vacuum by count, not by a share of a table that may hold a backlog.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0.2
);
create index deliveries_tail on postbell.deliveries (txid) where state <> 'dead';
create index deliveries_lane on postbell.deliveries (inbox, priority, delivery_id) where state = 'ready';
create index deliveries_due on postbell.deliveries (due_at) where state = 'scheduled';
create index deliveries_dead on postbell.deliveries (delivery_id) where state = 'dead';
create index deliveries_message on postbell.deliveries (message_id);

-- One row per live broker. Updated each second and when the bell is armed: fillfactor keeps that HOT.
create table postbell.brokers (
  broker_id   uuid primary key,
  name        text not null,
  address     text not null,
  version     text not null,
  started_at  timestamptz not null default now(),
  lease_until timestamptz not null,
  -- This broker sleeps: whoever commits a message rings.
  armed       boolean not null default false
) with (fillfactor = 50);

-- An epoch is never used twice: a broker that was silent and finds its inbox under the old one knows that nobody had
-- it meanwhile. A counter in the row would begin anew when the row is given back.
create sequence postbell.epochs;

-- Which broker dispatches an inbox, and since when it has been this one's.
create table postbell.leases (
  inbox       text primary key,
  broker_id   uuid not null,
  epoch       bigint not null default nextval('postbell.epochs'),
  acquired_at timestamptz not null default now()
);
create index leases_broker on postbell.leases (broker_id);

-- What of triggers/ is installed, by the digest of its text, so that it is re-applied only when that changes.
create table postbell.triggers (
  name       text primary key,
  sha256     text not null,
  applied_at timestamptz not null default now()
);

revoke all on all tables in schema postbell from public;
revoke all on all sequences in schema postbell from public;

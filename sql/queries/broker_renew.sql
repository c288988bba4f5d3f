-- Renews this broker's lease, each second, and does everything else that has the same beat. One statement, because each further
-- one would be a statement a second more from a broker at rest; each part has a name below.
-- `lapsed`: the lease had ended, so another broker may have taken inboxes. `sent`: whether the canary flies. `is_known_alive`:
-- this connection holds the lock that tells the others that the process lives. `wanted`: inboxes that another broker asks for.
-- `held`, `held_sum`: how many inboxes the table says are this broker's, and the sum of their epochs and lengths, for
-- src/pipeline/leaser.rs to compare with what it knows; a sum, since a list would be all inboxes each second. `is_orphaned`: the
-- router is a broker that does not live, or this one.
-- `signs`, `is_one_gone`, `open_from`, `begun_until`: src/pipeline/rest.rs sees by them whether the sweeps have anything to do.
-- Called by src/store/lease.rs. Uses brokers' primary key, leases_wanted, leases_broker and the catalog's indexes.
-- $1 broker uuid
-- $2 lease_ms bigint: how long the broker lives from now on
-- $3 name text
-- $4 address text
-- $5 version text
-- $6 canary_channel text
-- $7 canary text
-- $8 token_hash bytea: of its credential
-- $9 must_lock boolean: this connection does not hold the lock of the living yet
-- $10 certificate_hash text: SHA-256 of its certificate, or null
-- $11 standstill text: which duties stand still, in sentences, or null
-- $12 forget_ms bigint: a broker that has been silent for so long is to be forgotten
-- $13 for_sweeps boolean: `signs` and `is_one_gone` are looked for; false leaves out whatever may fail in them
with prior as (
  -- The row as it was before: the next part's change is not seen here.
  select lease_until from postbell.brokers where broker_id = $1
), renewed as (
  -- Lives on. The row is missing at the first call, and after a silence in which another broker swept it.
  insert into postbell.brokers (broker_id, name, address, version, lease_until, token_hash, certificate_sha256, standstill)
  values ($1, $3, $4, $5, clock_timestamp() + $2::bigint * interval '1 millisecond', $8, $10, $11)
  on conflict (broker_id) do update
  set lease_until = excluded.lease_until, certificate_sha256 = excluded.certificate_sha256, standstill = excluded.standstill
  returning lease_until, armed
), queue as materialized (
  -- How full the server's queue of notifications is, 0 to 1.
  select pg_notification_queue_usage() as usage
), canary as (
  -- Flies, unless the queue is nearly full: then a commit with a NOTIFY fails, and the lease must not fail with it.
  select case when usage < 0.75 then pg_notify($6::text, $7::text) is not null else false end as sent from queue
), bell as (
  -- Has producers ring until the lease ends, while the broker is armed. The bell only grows here; bell_arm.sql alone makes it
  -- less.
  select case when armed then
           setval('postbell.bell', greatest(pg_sequence_last_value('postbell.bell'), ceil(extract(epoch from lease_until))::bigint))
         end as rung_until
  from renewed
), living as (
  -- Takes the lock by which the others see that the process lives.
  select case when $9::boolean then pg_try_advisory_lock(hashtextextended('postbell.broker ' || $1::uuid, 0))
              else true end as is_known_alive
), asked as (
  -- Inboxes to give to a broker that has sessions for them.
  select array(select inbox from postbell.leases
               where broker_id = $1 and wanted_until is not null and wanted_until > clock_timestamp()) as wanted
), orphan as (
  -- The router does not live: what was left to it waits for another one. Or the router is this broker, which may not know: the answer
  -- was lost when it asked.
  select exists (select from postbell.router r
                 where r.only_row and r.broker_id is not null
                   and (r.broker_id = $1
                        or not exists (select from postbell.brokers b
                                       where b.broker_id = r.broker_id and b.lease_until > clock_timestamp()))) as is_orphaned
), held as (
  -- Numeric, so that no row that somebody wrote can overflow.
  select count(*) as inboxes, coalesce(sum(epoch::numeric + length(inbox)) % 9223372036854775807, 0)::bigint as sum
  from postbell.leases where broker_id = $1
), numbered as (
  -- The last delivery, note of a message that no trigger saw, outcome that was set aside, and agent that came or went. Sequences are
  -- read and not the tables, which somebody may have locked: the lease must not wait for those.
  select string_agg(case when c.relkind = 'S' and has_sequence_privilege(c.oid, 'usage') then pg_sequence_last_value(c.oid)::text end, ' '
                    order by c.oid) as last
  from pg_class c
  where $13::boolean and c.oid = any (array[to_regclass('postbell.deliveries_delivery_id_seq'), to_regclass('postbell.unseen_noted_id_seq'),
                                            to_regclass('postbell.set_aside_aside_id_seq'), to_regclass('postbell.presence_history_span_id_seq')]::oid[])
), triggers as (
  -- The same of the catalog as postbell.trigger_marks reads, without that function, which somebody may have dropped.
  select string_agg(concat_ws('/', t.tgname, t.oid, t.xmin, t.tgenabled), ' ' order by t.tgname) as marks
  from (select distinct d.refobjid from pg_rewrite r
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
        where r.ev_class = to_regclass('postbell.messages')::oid) m
  join pg_trigger t on t.tgrelid = m.refobjid
  where $13 and t.tgname like 'postbell\_%'
), gone as (
  -- Another broker is to be forgotten. Two halves, each of which an index finds.
  select $13 and (
    exists (select from postbell.brokers where broker_id < $1 and lease_until < now() - $12::bigint * interval '1 millisecond')
    or exists (select from postbell.brokers where broker_id > $1 and lease_until < now() - $12 * interval '1 millisecond')
  ) as is_one_gone
)
select coalesce((select lease_until from prior) < clock_timestamp(), true) as lapsed,
       canary.sent, queue.usage as queue_usage, bell.rung_until, living.is_known_alive, asked.wanted,
       held.inboxes as held, held.sum as held_sum, orphan.is_orphaned,
       case when $13 then hashtextextended(concat_ws(' ', numbered.last, triggers.marks), 0) end as signs,
       gone.is_one_gone, pg_snapshot_xmin(pg_current_snapshot())::text::bigint as open_from,
       pg_current_xact_id()::text::bigint as begun_until
from bell cross join queue cross join canary cross join living cross join asked cross join held cross join numbered cross join triggers
cross join gone cross join orphan

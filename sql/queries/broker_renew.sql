-- Each second: this broker lives for another $2 milliseconds, and its canary flies. $1 broker, $3 name, $4 address,
-- $5 version, $6 canary channel, $7 canary, $8 the hash of its credential, $10 of its certificate, $11 which duties stand
-- still, in sentences. Inserts the row where it is missing (first call, or swept by another broker after a long silence). `lapsed`: the lease had ended, so another broker may have taken
-- inboxes. While it is armed, producers ring for it until that lease ends: postbell.bell only grows here, and arm() alone
-- makes it less. $9: this connection does not hold the lock yet that tells the others that the process lives; `wanted`:
-- inboxes that another broker asks for. Called by src/store/lease.rs. Uses the primary key of brokers, and
-- leases_wanted; `prior` reads the row as it was.
with prior as (
  select lease_until from postbell.brokers where broker_id = $1
), renewed as (
  insert into postbell.brokers (broker_id, name, address, version, lease_until, token_hash,
                                certificate_sha256, standstill)
  values ($1, $3, $4, $5, clock_timestamp() + $2::bigint * interval '1 millisecond', $8,
          $10, $11)
  on conflict (broker_id) do update
  set lease_until = excluded.lease_until, certificate_sha256 = excluded.certificate_sha256,
      standstill = excluded.standstill
  returning lease_until, armed
)
select coalesce((select lease_until from prior) < clock_timestamp(), true) as lapsed,
       -- A commit with a NOTIFY fails when the server's queue of them is full, and the lease must not fail with it.
       case when pg_notification_queue_usage() < 0.75 then pg_notify($6::text, $7::text) is null else false end as sent,
       pg_notification_queue_usage() as queue_usage,
       case when armed then
         setval('postbell.bell', greatest(pg_sequence_last_value('postbell.bell'),
                                          ceil(extract(epoch from lease_until))::bigint))
       end as rung_until,
       case when $9::boolean then pg_try_advisory_lock(hashtextextended('postbell.broker ' || $1::uuid, 0))
            else true end as is_known_alive,
       array(select inbox from postbell.leases
             where broker_id = $1 and wanted_until is not null and wanted_until > clock_timestamp()) as wanted
from renewed

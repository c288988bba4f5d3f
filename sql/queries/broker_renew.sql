-- Each second: this broker lives for another $2 milliseconds, and its canary flies. $1 broker, $3 name, $4 address,
-- $5 version, $6 canary channel, $7 canary. Inserts the row where it is missing (first call, or swept by another
-- broker after a long silence). `lapsed`: the lease had ended, so another broker may have taken inboxes. While it is
-- armed, producers ring for it until that lease ends: postbell.bell only grows here, and arm() alone makes it less.
-- Called by src/postgres/lease.rs. Uses the primary key of brokers; `prior` reads the row as it was.
with prior as (
  select lease_until from postbell.brokers where broker_id = $1
), renewed as (
  insert into postbell.brokers (broker_id, name, address, version, lease_until)
  values ($1, $3, $4, $5, clock_timestamp() + $2::bigint * interval '1 millisecond')
  on conflict (broker_id) do update set lease_until = excluded.lease_until
  returning lease_until, armed
)
select coalesce((select lease_until from prior) < clock_timestamp(), true) as lapsed,
       pg_notify($6::text, $7::text) is null as sent,
       case when armed then
         setval('postbell.bell', greatest(pg_sequence_last_value('postbell.bell'),
                                          ceil(extract(epoch from lease_until))::bigint))
       end as rung_until
from renewed

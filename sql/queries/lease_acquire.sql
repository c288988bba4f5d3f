-- Takes inboxes that nobody owns, or whose owner's lease has ended; keeps those that are this broker's; names the owner of the
-- others.
-- Called by src/store/lease.rs. Uses the primary keys of leases and brokers.
-- $1 inboxes text[]: sorted, so that two brokers cannot deadlock
-- $2 broker uuid
-- $3 refusing uuid[]: brokers that refuse connections. Where the session that held such a broker's lock is gone as well, so is its
--    process, and nobody waits for its lease to end
with gone as (
  select b from unnest($3::uuid[]) as b
  where pg_try_advisory_xact_lock_shared(hashtextextended('postbell.broker ' || b, 0))
), taken as (
  insert into postbell.leases as l (inbox, broker_id)
  select i, $2 from unnest($1::text[]) as i order by i
  on conflict (inbox) do update
  set broker_id = excluded.broker_id,
      epoch = case when l.broker_id = excluded.broker_id then l.epoch else excluded.epoch end,
      acquired_at = case when l.broker_id = excluded.broker_id then l.acquired_at else now() end,
      wanted_until = null
  where l.broker_id = excluded.broker_id
     or not exists (select from postbell.brokers b
                    where b.broker_id = l.broker_id and b.lease_until > clock_timestamp()
                      and b.broker_id not in (select g.b from gone g))
  returning l.inbox, l.epoch
)
select i as inbox, t.epoch, o.broker_id as owner, o.address, o.certificate_sha256
from unnest($1::text[]) as i
left join taken t on t.inbox = i
left join lateral (
  select b.broker_id, b.address, b.certificate_sha256
  from postbell.leases l
  cross join lateral (select * from postbell.brokers b where b.broker_id = any (array[l.broker_id]) offset 0) b
  where l.inbox = any (array[i]) and t.epoch is null and b.token_hash is not null
  offset 0
) o on true

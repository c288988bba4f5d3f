-- Takes inboxes that nobody owns, or whose owner's lease has ended; keeps those that are this broker's.
-- $1 inboxes, sorted, so that two brokers cannot deadlock; $2 broker. Called by src/postgres/lease.rs.
-- Uses the primary keys of leases and brokers.
insert into postbell.leases as l (inbox, broker_id)
select i, $2 from unnest($1::text[]) as i order by i
on conflict (inbox) do update
set broker_id = excluded.broker_id,
    epoch = case when l.broker_id = excluded.broker_id then l.epoch else excluded.epoch end,
    acquired_at = case when l.broker_id = excluded.broker_id then l.acquired_at else now() end
where l.broker_id = excluded.broker_id
   or not exists (select from postbell.brokers b
                  where b.broker_id = l.broker_id and b.lease_until > clock_timestamp())
returning l.inbox, l.epoch

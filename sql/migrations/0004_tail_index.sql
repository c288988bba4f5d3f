-- The tail's index by another predicate: `state = 'scheduled'` and `state = 'ready'` imply `state <> 'dead'`, so a
-- statement that was planned while the table was empty walked the whole of this index instead of its own.
drop index postbell.deliveries_tail;
create index deliveries_tail on postbell.deliveries (txid) where dead_at is null;

-- Gives this transaction's id to deliveries whose transaction this cluster has not reached: they were restored from another
-- cluster's dump. The tail would read them in every round, and no refill would show them.
-- Called by src/store/tail.rs whenever the tail's connection is opened. Uses deliveries_tail: on any other database nothing is
-- beyond the end.
update postbell.deliveries set txid = pg_current_xact_id()
where dead_at is null and txid >= pg_snapshot_xmax(pg_current_snapshot())
